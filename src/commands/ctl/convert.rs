//! `margay ctl convert`: resources of Calico's API v1 in the form of v3.

use super::source;
use super::write::out;
use anyhow::{Result, bail};
use margay_control::resource::v1;
use margay_control::store::datastore::Document;
use margay_control::store::save;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// Turn resources of the API v1 into those of v3.
#[derive(Debug, clap::Args)]
pub(super) struct Convert {
    /// File of resources; - is standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    filename: PathBuf,
    /// yaml or json
    #[arg(short, long, default_value = "yaml")]
    output: String,
    /// Print resources that v3 does not allow, too
    #[arg(long)]
    ignore_validation: bool,
}

impl Convert {
    pub(super) fn execute(&self) -> Result<ExitCode> {
        let name = self.filename.display().to_string();
        let content = source::text(&self.filename)?;
        let values = save::values(&name, &content).map_err(|fault| anyhow::anyhow!("{fault}"))?;
        if values.is_empty() {
            bail!("Failed to execute command: {name}: no resources specified");
        }
        let convert = |old: &Value| {
            v1::to_v3(old).map_err(|what| anyhow::anyhow!("Failed to execute command: {what}"))
        };
        let mut found = values.iter().map(convert).collect::<Result<Vec<Value>>>()?;
        for value in found.iter().filter(|_| !self.ignore_validation) {
            let checked = Document::new(value.clone()).and_then(|document| save::check(&document));
            checked.map_err(|error| {
                anyhow::anyhow!(
                    "Converted manifest resource(s) failed validation: {error}\n\
                     hint: --ignore-validation shows the converted output"
                )
            })?;
        }
        let whole = match found.len() {
            1 => found.remove(0),
            _ => Value::Array(found),
        };
        match self.output.as_str() {
            "yaml" | "yml" => out(&save::yaml(&whole))?,
            "json" => out(&format!("{whole:#}\n"))?,
            other => bail!("unrecognized output format '{other}'\nhint: yaml or json"),
        }
        Ok(ExitCode::SUCCESS)
    }
}
