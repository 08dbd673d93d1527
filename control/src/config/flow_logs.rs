//! Where and how much is written of what policy says of flows.

use super::ConfigError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Most lines a second.
pub const LINES_MAX: u32 = 100_000;

/// Settings of the flow log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct FlowLogSettings {
    /// The file, JSON by the line; none for no flow log.
    pub file: Option<PathBuf>,
    /// Most lines a second, 1 to [`LINES_MAX`].
    pub lines_per_second: u32,
    /// Also what is let through.
    pub allowed: bool,
    /// Size in MiB at which the file is renamed to FILE.1 and begun anew, 1 or more.
    pub max_size: u32,
}

impl Default for FlowLogSettings {
    fn default() -> FlowLogSettings {
        FlowLogSettings { file: None, lines_per_second: 100, allowed: false, max_size: 64 }
    }
}

impl FlowLogSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(1..=LINES_MAX).contains(&self.lines_per_second) {
            let what = format!("{} lines a second", self.lines_per_second);
            let hint = format!("1 to {LINES_MAX}");
            return Err(ConfigError::new("flowLogs.linesPerSecond", what, hint));
        }
        if self.max_size == 0 {
            let hint = "the size in MiB at which the file is begun anew, 1 or more";
            return Err(ConfigError::new("flowLogs.maxSize", "0 leaves no room", hint));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn settings_are_read_and_their_bounds_held() {
        let read = |text: &str| Config::parse(&format!("flowLogs: {text}"), "f").unwrap();
        let config = read("{file: /tmp/flows.json, linesPerSecond: 100000, allowed: true}");
        assert!(config.check().is_ok() && config.flow_logs.allowed);
        for (text, place) in [
            ("{linesPerSecond: 0}", "flowLogs.linesPerSecond"),
            ("{linesPerSecond: 100001}", "flowLogs.linesPerSecond"),
            ("{maxSize: 0}", "flowLogs.maxSize"),
        ] {
            assert_eq!(read(text).check().unwrap_err().place, place);
        }
    }
}
