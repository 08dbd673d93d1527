//! `margay ctl datastore migrate`: locks the cluster, writes all of it out, and reads it into
//! another store.
//!
//! What is written is YAML of every resource, IPAM's included, ClusterInformation first. An import
//! is left locked, so that nothing runs on half of it; nodes of both stores hold still meanwhile.

use super::kinds::Kind;
use super::source;
use super::write::out;
use anyhow::{Result, bail};
use margay_control::startup::cluster;
use margay_control::store::Store;
use margay_control::store::datastore::{Datastore, Document};
use margay_control::store::save;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const CLUSTER: &str = "ClusterInformation";
/// What IPAM keeps, beside the kinds that people write. Affinities are among those.
const IPAM: [&str; 3] = ["IPAMConfig", "IPAMBlock", "IPAMHandle"];

/// The datastore as a whole.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Move all data to another datastore
    #[command(subcommand)]
    Migrate(Migrate),
}

/// Move all data to another datastore.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Migrate {
    /// Write everything to standard output; the datastore must be locked
    Export,
    /// Read what was exported into an empty datastore, and leave it locked
    Import {
        /// File of `export`; - is standard input
        #[arg(short, long = "filename", value_name = "FILE")]
        filename: PathBuf,
    },
    /// Nothing changes any more: nodes keep what they know, and pods are neither made nor removed
    Lock,
    /// Changes count again
    Unlock,
}

impl Verb {
    pub(super) async fn execute(&self, store: &Store) -> Result<ExitCode> {
        let Verb::Migrate(migrate) = self;
        match migrate {
            Migrate::Export => export(store).await?,
            Migrate::Import { filename } => import(store, filename).await?,
            Migrate::Lock => {
                set_ready(store, false).await?;
                out("Datastore locked.\n")?;
            }
            Migrate::Unlock => {
                set_ready(store, true).await?;
                out("Datastore unlocked.\n")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn set_ready(store: &Store, ready: bool) -> Result<()> {
    let document = match store.find(&cluster::key()).await? {
        Some(found) => {
            let mut spec = found.spec();
            spec["datastoreReady"] = json!(ready);
            found.with_spec(spec)
        }
        None => Document::new(json!({"kind": CLUSTER, "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "default"}, "spec": {"datastoreReady": ready}}))?,
    };
    save::apply(store, document).await?;
    Ok(())
}

/// All kinds of a store, ClusterInformation first.
fn kinds() -> impl Iterator<Item = &'static str> {
    let others = Kind::each().filter(|name| *name != CLUSTER);
    [CLUSTER].into_iter().chain(others).chain(IPAM)
}

async fn export(store: &Store) -> Result<()> {
    if cluster::is_ready(store).await? {
        bail!(
            "the datastore is not locked, and could change meanwhile\n\
             hint: margay ctl datastore migrate lock"
        );
    }
    for kind in kinds() {
        let listing = store.list(kind).await?;
        if let Some(fault) = listing.faults.first() {
            bail!("{fault}\nhint: an export leaves nothing out: mend or delete it first");
        }
        // Kubernetes' own policies go with Kubernetes.
        let own = |one: &Document| one.key.kubernetes_policy().is_none();
        for document in listing.documents.into_iter().filter(own) {
            out(&format!("---\n{}", save::yaml(&Value::Object(document.value))))?;
        }
    }
    Ok(())
}

async fn import(store: &Store, file: &Path) -> Result<()> {
    let text = source::text(file)?;
    let documents = save::parse(&file.display().to_string(), &text)
        .map_err(|fault| anyhow::anyhow!("{fault}"))?;
    if !documents.iter().any(|document| document.key.kind == CLUSTER) {
        bail!("{}: there is no ClusterInformation in it: it is no export", file.display());
    }
    for kind in kinds().filter(|kind| *kind != CLUSTER) {
        if !store.list(kind).await?.documents.is_empty() {
            bail!("the datastore has resources already ({kind})\nhint: import into an empty one");
        }
    }
    let total = documents.len();
    for mut document in documents {
        document.revision = None;
        if document.key.kind == CLUSTER {
            let mut spec = document.spec();
            spec["datastoreReady"] = json!(false);
            save::apply(store, document.with_spec(spec)).await?;
        } else {
            store.create(document).await?;
        }
    }
    out(&format!(
        "Successfully imported {total} resources. The datastore is locked: unlock it when its \
         nodes use it (margay ctl datastore migrate unlock).\n"
    ))
}
