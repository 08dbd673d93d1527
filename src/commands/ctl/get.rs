//! `margay ctl get`.

use super::kinds::Kind;
use super::{Input, Scope, kind_named, table, template};
use anyhow::{Context, Result, bail};
use margay_control::store::Store;
use margay_control::store::datastore::{Datastore, Document, Revision, StoreError};
use margay_control::store::save;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Show resources.
#[derive(Debug, clap::Args)]
pub(super) struct Get {
    /// Kind
    kind: Option<String>,
    /// Names; all of the kind without any
    names: Vec<String>,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    scope: Scope,
    /// ps, wide, yaml, json, name, custom-columns=HEADING,..., go-template=TEMPLATE, or
    /// go-template-file=FILE
    #[arg(short, long, default_value = "ps")]
    output: String,
    /// Resources of all namespaces
    #[arg(short = 'A', long, visible_short_alias = 'a')]
    all_namespaces: bool,
    /// Without what only this cluster has: uid, time and revision
    #[arg(long)]
    export: bool,
}

impl Get {
    pub(super) async fn execute(&self, store: &Store) -> Result<ExitCode> {
        if let Some(kind) = &self.kind
            && self.names.is_empty()
        {
            let kind = kind_named(kind)?;
            let listing = store.list(kind.name).await?;
            for fault in &listing.faults {
                eprintln!("{fault}");
            }
            let own = |document: &Document| {
                !kind.namespaced
                    || self.all_namespaces
                    || document.key.namespace == self.scope.namespace()
            };
            let found: Vec<Document> = listing.documents.into_iter().filter(own).collect();
            let list = List { found, revision: listing.revision };
            self.print(vec![(kind, list)], true)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut groups: Vec<(&'static Kind, List)> = Vec::new();
        let mut missing: Vec<StoreError> = Vec::new();
        for (kind, key) in self.keys()? {
            let document = match store.get(&key).await {
                Ok(document) => document,
                Err(error @ StoreError::NotFound(_)) => {
                    missing.push(error);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match groups.iter_mut().find(|(known, _)| known.name == kind.name) {
                Some((_, list)) => list.found.push(document),
                None => groups.push((kind, List { found: vec![document], revision: None })),
            }
        }
        self.print(groups, false)?;
        if missing.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        for error in missing {
            eprintln!("Failed to get resources: {error}");
        }
        Ok(ExitCode::FAILURE)
    }

    fn keys(&self) -> Result<Vec<(&'static Kind, margay_control::resource::Key)>> {
        if let Some(kind) = &self.kind {
            let kind = kind_named(kind)?;
            return Ok(self.names.iter().map(|name| (kind, self.scope.key(kind, name))).collect());
        }
        let documents = self.input.documents(&self.scope)?;
        documents.into_iter().map(|one| Ok((kind_named(&one.key.kind)?, one.key))).collect()
    }

    fn print(&self, groups: Vec<(&'static Kind, List)>, listed: bool) -> Result<()> {
        if let Some((form, text)) = self.output.split_once('=')
            && let "go-template" | "go-template-file" = form
        {
            return self.print_template(form, text, groups, listed);
        }
        let text = match self.output.as_str() {
            "json" => format!("{:#}\n", self.value(groups, listed)),
            "yaml" => save::yaml(&self.value(groups, listed)),
            "name" => names(&groups),
            "ps" | "table" => self.tables(&groups, false, None),
            "wide" => self.tables(&groups, true, None),
            other => match other.strip_prefix("custom-columns=") {
                Some(headings) => self.tables(&groups, true, Some(headings)),
                None => bail!(
                    "unrecognized output format '{other}'\nhint: ps, wide, yaml, json, name, \
                     custom-columns=HEADING,..., go-template=TEMPLATE or go-template-file=FILE"
                ),
            },
        };
        super::write::out(&text)
    }

    /// By a template of Go's, which is handed the list of what was read.
    fn print_template(
        &self,
        form: &str,
        text: &str,
        groups: Vec<(&'static Kind, List)>,
        listed: bool,
    ) -> Result<()> {
        if text.is_empty() {
            let what = if form == "go-template" { "template" } else { "template file" };
            bail!("need to specify a {what}");
        }
        let template = match form {
            "go-template" => text.to_owned(),
            _ => std::fs::read_to_string(text).with_context(|| text.to_owned())?,
        };
        let dot = match self.value(groups, listed) {
            Value::Array(all) => Value::Array(all),
            one => json!([one]),
        };
        let text = template::render(&template, &dot)
            .map_err(|error| anyhow::anyhow!("template: {error}"))?;
        super::write::out(&text)
    }

    fn value(&self, groups: Vec<(&'static Kind, List)>, listed: bool) -> Value {
        let mut values: Vec<Value> = Vec::new();
        for (kind, list) in groups {
            let items = list.found.into_iter().map(|document| self.shown(document));
            if !listed {
                values.extend(items);
                continue;
            }
            let revision = list.revision.map(|revision| revision.0);
            return json!({"kind": format!("{}List", kind.name),
                "apiVersion": "projectcalico.org/v3",
                "metadata": {"resourceVersion": revision}, "items": items.collect::<Vec<_>>()});
        }
        match values.len() {
            1 => values.remove(0),
            _ => Value::Array(values),
        }
    }

    /// The resource as it is printed, its revision in it.
    fn shown(&self, document: Document) -> Value {
        let mut value = document.value;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            match (self.export, document.revision) {
                (false, Some(Revision(revision))) => {
                    metadata.insert("resourceVersion".to_owned(), json!(revision));
                }
                (false, None) => {}
                (true, _) => strip(metadata),
            }
        }
        Value::Object(value)
    }

    fn tables(
        &self,
        groups: &[(&'static Kind, List)],
        wide: bool,
        headings: Option<&str>,
    ) -> String {
        let mut text = String::new();
        for (kind, list) in groups {
            let leads = kind.namespaced && (self.all_namespaces || self.scope.namespace.is_some());
            let chosen = |heading: &str| {
                headings
                    .is_none_or(|all| all.split(',').any(|one| one.eq_ignore_ascii_case(heading)))
            };
            let columns: Vec<_> =
                kind.columns(wide).iter().filter(|(heading, ..)| chosen(heading)).collect();
            let mut rows = Vec::new();
            let lead = |cell: String| leads.then_some(cell);
            let heading = columns.iter().map(|(heading, ..)| (*heading).to_owned());
            rows.push(lead("NAMESPACE".to_owned()).into_iter().chain(heading).collect());
            for document in &list.found {
                let value = Value::Object(document.value.clone());
                let cells = columns.iter().map(|column| table::cell(&value, column));
                let namespace = lead(document.key.namespace.clone());
                rows.push(namespace.into_iter().chain(cells).collect::<Vec<String>>());
            }
            text.push_str(&table::columns(&rows));
        }
        text
    }
}

/// Resources of one kind.
struct List {
    found: Vec<Document>,
    revision: Option<Revision>,
}

fn names(groups: &[(&'static Kind, List)]) -> String {
    let mut text = String::new();
    for (kind, list) in groups {
        for document in &list.found {
            text.push_str(&format!("{}/{}\n", kind.name.to_lowercase(), document.key.name));
        }
    }
    text
}

fn strip(metadata: &mut Map<String, Value>) {
    for field in ["uid", "creationTimestamp", "resourceVersion", "selfLink", "ownerReferences"] {
        metadata.remove(field);
    }
}
