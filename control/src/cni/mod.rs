//! The CNI plugin `calico` and its IPAM plugin `calico-ipam` (CNI specification 0.1.0 to 1.1.0).
//!
//! [`config`] reads what a conflist says, [`answer`] writes results of each version, `address`
//! takes addresses, `device` makes the veth pair, `endpoint` the WorkloadEndpoint, and [`plugin`]
//! puts them together. Routes to pods in the host's kernel are left to the daemon. Not there:
//! netkit devices, floating addresses, and Windows.

mod address;
pub mod answer;
pub mod config;
mod delegate;
mod device;
mod endpoint;
pub mod plugin;

use crate::store::Store;
use answer::CniError;
use config::NetConf;
use std::path::PathBuf;

/// Which of the two plugins is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// `calico`.
    Network,
    /// `calico-ipam`.
    Ipam,
}

/// What the runtime asks for: the variables of CNI, and the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`; empty when the namespace is gone.
    pub netns: PathBuf,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// `CNI_PATH`, folders of other plugins.
    pub path: String,
    /// The network's configuration, as JSON.
    pub stdin: String,
}

impl Call {
    /// The call that the environment describes.
    pub fn new(environment: &dyn Fn(&str) -> Option<String>, stdin: String) -> Call {
        let text = |name: &str| environment(name).unwrap_or_default();
        Call {
            command: text("CNI_COMMAND"),
            container: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS").into(),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
            path: text("CNI_PATH"),
            stdin,
        }
    }

    /// One of the `KEY=VALUE;...` of `CNI_ARGS`; none where it is empty.
    fn arg(&self, name: &str) -> Option<&str> {
        let pairs = self.args.split(';').filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(key, value)| *key == name && !value.is_empty());
        found.next().map(|(_, value)| value)
    }

    /// The variables that a command needs are there, and fit to be in names.
    fn check(&self) -> Result<(), CniError> {
        let bad = |what: String| Err(CniError::new(answer::BAD_ENVIRONMENT, what));
        let plain = |text: &str| {
            text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
                && text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric())
        };
        if self.container.is_empty() || !plain(&self.container) {
            return bad(format!("CNI_CONTAINERID '{}' is no identifier", self.container));
        }
        let fits = self.ifname.len() <= crate::config::DEVICE_NAME_MAX;
        if !fits || !plain(&self.ifname) {
            return bad(format!("CNI_IFNAME '{}' cannot name a device", self.ifname));
        }
        if self.netns.as_os_str().is_empty() && matches!(self.command.as_str(), "ADD" | "CHECK") {
            return bad("CNI_NETNS is missing".to_owned());
        }
        Ok(())
    }
}

/// Serves a call; the text for standard output, and whether it went well.
pub async fn serve(plugin: Plugin, call: &Call) -> (String, bool) {
    let version = config::version_of(&call.stdin);
    match answered(plugin, call).await {
        Ok(answer) => (answer, true),
        Err(error) => (error.text(&version), false),
    }
}

async fn answered(plugin: Plugin, call: &Call) -> Result<String, CniError> {
    if call.command == "VERSION" {
        return Ok(answer::versions(&config::version_of(&call.stdin)));
    }
    let config = NetConf::parse(&call.stdin)?;
    let open = || Ok::<_, CniError>(Store::open(&config.store()?)?);
    let name = (plugin, call.command.as_str());
    if !matches!(name.1, "GC" | "STATUS") {
        call.check()?;
    }
    match name {
        (Plugin::Ipam, "CHECK") => Ok(String::new()),
        (_, "STATUS") => plugin::status(&config, &open()?).await.map(|()| String::new()),
        (Plugin::Network, "ADD") => plugin::add(call, &config, &open()?).await,
        (Plugin::Network, "DEL") => plugin::del(call, &config, &open()?).await,
        (Plugin::Network, "CHECK") => plugin::check(call, &config, &open()?).await,
        (Plugin::Network, "GC") => plugin::gc(&config, &open()?).await,
        (Plugin::Ipam, "ADD") => plugin::ipam_add(call, &config, &open()?).await,
        (Plugin::Ipam, "DEL") => plugin::ipam_del(call, &config, &open()?).await,
        (Plugin::Ipam, "GC") => plugin::ipam_gc(&config, &open()?).await,
        (_, other) => {
            let what = format!("CNI_COMMAND '{other}' is none of ADD, DEL, CHECK, VERSION, GC");
            Err(CniError::new(answer::BAD_ENVIRONMENT, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_by_name() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;IP=".to_owned();
        let call = Call { args, ..Call::default() };
        assert_eq!(call.arg("K8S_POD_NAME"), Some("web-0"));
        assert_eq!((call.arg("IP"), call.arg("POD")), (None, None));
    }

    #[tokio::test]
    async fn wrong_calls_are_answered_with_their_code() {
        let call = |command: &str, container: &str, ifname: &str, stdin: &str| Call {
            command: command.to_owned(),
            container: container.to_owned(),
            ifname: ifname.to_owned(),
            stdin: stdin.to_owned(),
            ..Call::default()
        };
        let config = r#"{"cniVersion": "0.3.1", "name": "net", "type": "calico"}"#;
        for (call, code) in [
            (call("ADD", "c", "eth0", "{"), 6),
            (call("ADD", "c", "eth0", r#"{"cniVersion": "9.0.0", "name": "n"}"#), 1),
            (call("ADD", "c", "eth0", r#"{"cniVersion": "0.3.1"}"#), 7),
            (call("ADD", "", "eth0", config), 4),
            (call("ADD", "c", "eth0/x", config), 4),
            (call("ADD", "c", "eth0", config), 4),
            (call("SING", "c", "eth0", config), 4),
        ] {
            let (text, fine) = serve(Plugin::Network, &call).await;
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(!fine && answer["code"] == code, "{text}");
        }
        let (text, fine) = serve(Plugin::Ipam, &call("VERSION", "", "", "{}")).await;
        assert!(fine && text.contains("\"0.3.1\""), "{text}");
    }
}
