//! Verbs of `margay ctl` that write: apply, create, replace, delete, patch, label; and validate.

use super::{Input, Scope, kind_named, patch};
use anyhow::{Result, bail};
use margay_control::resource::Key;
use margay_control::store::Store;
use margay_control::store::datastore::{Datastore, Document, StoreError};
use margay_control::store::save;
use serde_json::{Value, json};
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// What is done to resources of files.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Apply,
    Create { skip_existing: bool },
    Replace,
    Delete { skip_missing: bool },
}

impl Action {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Action::Apply => ("apply", "applied"),
            Action::Create { .. } => ("create", "created"),
            Action::Replace => ("replace", "replaced"),
            Action::Delete { .. } => ("delete", "deleted"),
        }
    }

    async fn run(self, store: &Store, document: Document) -> Result<(), StoreError> {
        refuse_policies_of_kubernetes(self.words().0, &document.key)?;
        match self {
            Action::Apply => save::apply(store, document).await.map(drop),
            Action::Replace => save::replace(store, document).await.map(drop),
            Action::Create { skip_existing } => match save::create(store, document).await {
                Err(StoreError::Exists(_)) if skip_existing => Ok(()),
                outcome => outcome.map(drop),
            },
            Action::Delete { skip_missing } => match save::remove(store, &document).await {
                Err(StoreError::NotFound(_)) if skip_missing => Ok(()),
                outcome => outcome,
            },
        }
    }
}

/// Kubernetes' own policies are shown as resources, and written elsewhere.
fn refuse_policies_of_kubernetes(verb: &str, key: &Key) -> Result<(), StoreError> {
    if key.kubernetes_policy().is_none() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "operation {verb} is not supported on {key}: kubernetes network policies must be managed \
         through the kubernetes API"
    )))
}

/// Does it to all of them, and says how far it came.
async fn run(store: &Store, documents: Vec<Document>, action: Action) -> Result<ExitCode> {
    let (verb, done) = action.words();
    let first = documents.first().map(|one| one.key.kind.clone()).unwrap_or_default();
    let same = documents.iter().all(|one| one.key.kind == first);
    let what = if same { format!("'{first}' resource") } else { "resource".to_owned() };
    let total = documents.len();
    for (at, document) in documents.into_iter().enumerate() {
        let Err(error) = action.run(store, document).await else { continue };
        match at {
            0 => eprintln!("Failed to {verb} {what}: {error}"),
            _ => {
                eprintln!("Partial success: {done} the first {at} out of {total} {what}s:");
                eprintln!("Hit error: {error}");
            }
        }
        return Ok(ExitCode::FAILURE);
    }
    match total {
        0 => {}
        _ => out(&format!("Successfully {done} {total} {what}(s)\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints; a reader that stops reading is no error.
pub(super) fn out(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Resources of files.
#[derive(Debug, clap::Args)]
pub(super) struct Files {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    scope: Scope,
}

impl Files {
    pub(super) async fn execute(&self, store: &Store, action: Action) -> Result<ExitCode> {
        run(store, self.input.documents(&self.scope)?, action).await
    }

    /// Checks each of them; `{"valid": bool, "errors": [...]}`.
    pub(super) fn validate(&self) -> Result<ExitCode> {
        let documents = self.input.documents(&self.scope);
        let errors: Vec<String> = match documents {
            Err(error) => vec![format!("{error:#}")],
            Ok(documents) => {
                let checked = documents.iter().map(save::check);
                checked.filter_map(|outcome| outcome.err().map(|error| error.to_string())).collect()
            }
        };
        out(&format!("{:#}\n", json!({"valid": errors.is_empty(), "errors": errors})))?;
        Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Create resources that are not there.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    #[command(flatten)]
    files: Files,
    /// Leave resources that are there as they are
    #[arg(long)]
    skip_exists: bool,
}

impl Create {
    pub(super) async fn execute(&self, store: &Store) -> Result<ExitCode> {
        self.files.execute(store, Action::Create { skip_existing: self.skip_exists }).await
    }
}

/// Remove resources.
#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// Kind
    kind: Option<String>,
    /// Names
    names: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Resources that are not there are no error
    #[arg(short, long)]
    skip_not_exists: bool,
}

impl Delete {
    pub(super) async fn execute(&self, store: &Store) -> Result<ExitCode> {
        let action = Action::Delete { skip_missing: self.skip_not_exists };
        let Some(kind) = &self.kind else { return self.files.execute(store, action).await };
        if self.names.is_empty() {
            bail!("resource name must be specified");
        }
        let kind = kind_named(kind)?;
        let document = |name: &String| Document {
            key: self.files.scope.key(kind, name),
            value: serde_json::Map::new(),
            revision: None,
        };
        run(store, self.names.iter().map(document).collect(), action).await
    }
}

/// Change single fields of a resource.
#[derive(Debug, clap::Args)]
pub(super) struct Patch {
    /// Kind
    kind: String,
    /// Name
    name: String,
    /// The patch, JSON or YAML
    #[arg(short, long)]
    patch: String,
    /// strategic (merges objects, replaces lists), merge, or json (RFC 6902)
    #[arg(short = 't', long = "type", default_value = "strategic")]
    form: String,
    #[command(flatten)]
    scope: Scope,
}

impl Patch {
    pub(super) async fn execute(&self, store: &Store) -> Result<ExitCode> {
        let kind = kind_named(&self.kind)?;
        let patch: Value = serde_saphyr::from_str(&self.patch)?;
        let key = self.scope.key(kind, &self.name);
        if let Err(error) = refuse_policies_of_kubernetes("patch", &key) {
            eprintln!("Failed to patch '{}' resource: {error}", kind.name);
            return Ok(ExitCode::FAILURE);
        }
        let before = store.get(&key).await?;
        let mut value = Value::Object(before.value.clone());
        match self.form.as_str() {
            "strategic" | "merge" => patch::merge(&mut value, &patch),
            "json" => value = patch::operate(&value, &patch).map_err(anyhow::Error::msg)?,
            other => bail!("unknown patch type '{other}'\nhint: strategic, merge or json"),
        }
        let mut document = Document::new(value)?;
        if document.key != before.key {
            bail!("a patch cannot make {} of {}", document.key, before.key);
        }
        document.revision = before.revision;
        if let Err(error) = save::replace(store, document).await {
            eprintln!("Failed to patch '{}' resource: {error}", kind.name);
            return Ok(ExitCode::FAILURE);
        }
        out(&format!("Successfully patched 1 '{}' resource\n", kind.name))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Set or remove a label of a resource.
#[derive(Debug, clap::Args)]
pub(super) struct Label {
    /// Kind
    kind: String,
    /// Name
    name: String,
    /// KEY=VALUE, or KEY with --remove
    label: String,
    /// Replace another value
    #[arg(long)]
    overwrite: bool,
    /// Remove the label
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    scope: Scope,
}

impl Label {
    pub(super) async fn execute(&self, store: &Store) -> Result<ExitCode> {
        let kind = kind_named(&self.kind)?;
        let key = self.scope.key(kind, &self.name);
        refuse_policies_of_kubernetes("label", &key)?;
        let mut document = store.get(&key).await?;
        let metadata = document.value.entry("metadata").or_insert_with(|| json!({}));
        if metadata["labels"].is_null() {
            metadata["labels"] = json!({});
        }
        let Some(labels) = metadata["labels"].as_object_mut() else {
            bail!("the labels of {} are no object", document.key);
        };
        let (name, text) = match (self.remove, self.label.split_once('=')) {
            (true, None) => {
                if labels.remove(&self.label).is_none() {
                    bail!("cannot remove label '{}': {} has none", self.label, document.key);
                }
                (self.label.as_str(), "removed label")
            }
            (true, Some(_)) => bail!("--remove takes the name of a label, without a value"),
            (false, None) => bail!("invalid label '{}'\nhint: KEY=VALUE", self.label),
            (false, Some((name, value))) => {
                let before = labels.get(name);
                if before.is_some_and(|before| before != value) && !self.overwrite {
                    bail!("{} has label '{name}' already\nhint: use --overwrite", document.key);
                }
                labels.insert(name.to_owned(), json!(value));
                (name, "set label")
            }
        };
        save::replace(store, document).await?;
        out(&format!("Successfully {text} {name} on {} {}\n", kind.name, self.name))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[test]
    fn a_missing_file_is_named() {
        let input = Input {
            filename: Some("/nonexistent/x.yaml".into()),
            recursive: false,
            skip_empty: false,
        };
        let error = input.documents(&Scope { namespace: None }).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/x.yaml"), "{error:#}");
        let directory = source::config(None, Some("/nonexistent".into())).unwrap();
        assert_eq!(directory.path, std::path::Path::new("/nonexistent"));
    }
}
