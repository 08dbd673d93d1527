//! `margay ctl`: calicoctl, also when the binary is called so.
//!
//! Verbs, kinds, columns and texts are calicoctl's. Errors go to standard error, with exit status 1
//! for all of them. `node run` starts nothing: the daemon is `margay run`.

mod cluster;
mod convert;
mod datastore;
mod get;
mod ipam;
mod kinds;
mod node;
mod patch;
mod source;
mod table;
mod template;
mod version;
mod write;

use anyhow::Result;
use kinds::Kind;
use margay_control::resource::Key;
use margay_control::store::Store;
use std::path::PathBuf;
use std::process::ExitCode;

/// Namespace of resources that name none.
const NAMESPACE: &str = "default";

/// Manage Calico's resources, as calicoctl does.
#[derive(Debug, clap::Args)]
pub(crate) struct Ctl {
    #[command(subcommand)]
    verb: Verb,
    /// File of settings, as calicoctl has it [default: /etc/calico/calicoctl.cfg, if it is there]
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Directory of Calico resources, instead of the datastore of the settings
    #[arg(long, value_name = "DIR", global = true)]
    store: Option<PathBuf>,
    /// Taken for calicoctl's sake; margay has no version of Calico to compare
    #[arg(long, global = true, hide = true)]
    allow_version_mismatch: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show resources
    Get(get::Get),
    /// Create resources, or replace those that are there
    Apply(write::Files),
    /// Create resources that are not there
    Create(write::Create),
    /// Replace resources that are there
    Replace(write::Files),
    /// Remove resources
    Delete(write::Delete),
    /// Change single fields of a resource
    Patch(write::Patch),
    /// Set or remove a label of a resource
    Label(write::Label),
    /// Check resources without a store
    Validate(write::Files),
    /// Turn resources of the API v1 into those of v3
    Convert(convert::Convert),
    /// Addresses: who has which
    #[command(subcommand)]
    Ipam(ipam::Ipam),
    /// The datastore as a whole
    #[command(subcommand)]
    Datastore(datastore::Verb),
    /// This node
    #[command(subcommand)]
    Node(node::Node),
    /// The whole cluster
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Show versions
    Version(version::Version),
}

/// Where resources come from.
#[derive(Debug, Clone, clap::Args)]
struct Input {
    /// File or folder of resources; - is standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    filename: Option<PathBuf>,
    /// Look into folders of a folder too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Files without resources are no error
    #[arg(long)]
    skip_empty: bool,
}

/// Which namespace.
#[derive(Debug, Clone, clap::Args)]
struct Scope {
    /// Namespace of the resources
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

impl Scope {
    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(NAMESPACE)
    }

    fn key(&self, kind: &Kind, name: &str) -> Key {
        let namespace = if kind.namespaced { self.namespace() } else { "" };
        Key { kind: kind.name.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl Ctl {
    pub(crate) fn execute(self) -> Result<ExitCode> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(self.run())
    }

    async fn run(self) -> Result<ExitCode> {
        match &self.verb {
            Verb::Validate(files) => return files.validate(),
            Verb::Convert(convert) => return convert.execute(),
            Verb::Node(node) => return node.execute(),
            Verb::Cluster(cluster) => return cluster.execute(),
            Verb::Version(version) if version.client => {
                return version::Version::print_client().map(|()| ExitCode::SUCCESS);
            }
            _ => {}
        }
        let config = source::config(self.config.as_deref(), self.store)?;
        let store = Store::open(&config)?;
        match self.verb {
            Verb::Get(get) => get.execute(&store).await,
            Verb::Apply(files) => files.execute(&store, write::Action::Apply).await,
            Verb::Create(create) => create.execute(&store).await,
            Verb::Replace(files) => files.execute(&store, write::Action::Replace).await,
            Verb::Delete(delete) => delete.execute(&store).await,
            Verb::Patch(patch) => patch.execute(&store).await,
            Verb::Label(label) => label.execute(&store).await,
            Verb::Ipam(ipam) => ipam.execute(&store).await,
            Verb::Datastore(verb) => verb.execute(&store).await,
            Verb::Version(version) => version.execute(&store).await,
            Verb::Validate(_) | Verb::Convert(_) | Verb::Node(_) | Verb::Cluster(_) => {
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The kind of this name, or an error with all of them.
fn kind_named(name: &str) -> Result<&'static Kind> {
    Kind::named(name).ok_or_else(|| {
        anyhow::anyhow!(
            "resource type '{name}' is not supported\nhint: it is one of {}",
            Kind::all()
        )
    })
}
