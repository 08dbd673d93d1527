//! Results and errors, in the forms of CNI's versions.

use crate::ipam::IpamError;
use crate::store::datastore::StoreError;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::Path;

/// The version is not understood.
pub(super) const BAD_VERSION: u32 = 1;
/// A variable is missing or wrong.
pub(super) const BAD_ENVIRONMENT: u32 = 4;
/// The system refused.
pub(super) const IO: u32 = 5;
/// The configuration is no JSON.
pub(super) const BAD_JSON: u32 = 6;
/// The configuration cannot be used.
pub(super) const BAD_CONFIG: u32 = 7;
/// It may work later.
pub(super) const TRY_LATER: u32 = 11;
/// The plugin cannot serve ADD now (STATUS).
pub(super) const NOT_AVAILABLE: u32 = 50;
/// No address.
pub(super) const NO_ADDRESS: u32 = 100;
/// What CHECK found is not as it must be.
pub(super) const NOT_AS_MADE: u32 = 101;

/// An error, as runtimes read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// The specification's code, or from 100 on a plugin's own.
    pub code: u32,
    /// What is wrong.
    pub what: String,
}

impl CniError {
    pub(super) fn new(code: u32, what: impl Into<String>) -> CniError {
        CniError { code, what: what.into() }
    }

    /// Its JSON.
    pub(super) fn text(&self, version: &str) -> String {
        json!({"cniVersion": version, "code": self.code, "msg": self.what}).to_string()
    }
}

impl From<StoreError> for CniError {
    fn from(error: StoreError) -> CniError {
        let code = match error {
            StoreError::Unavailable(_) | StoreError::Conflict(_) => TRY_LATER,
            StoreError::Invalid { .. } => BAD_CONFIG,
            _ => IO,
        };
        CniError::new(code, error.to_string())
    }
}

impl From<IpamError> for CniError {
    fn from(error: IpamError) -> CniError {
        match error {
            IpamError::Store(inner) => inner.into(),
            IpamError::Contended(_) => CniError::new(TRY_LATER, error.to_string()),
            _ => CniError::new(NO_ADDRESS, error.to_string()),
        }
    }
}

/// Answer to VERSION.
pub(super) fn versions(version: &str) -> String {
    json!({"cniVersion": version, "supportedVersions": super::config::VERSIONS}).to_string()
}

/// What a pod has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attached<'a> {
    /// Its addresses.
    pub(super) addresses: &'a [IpAddr],
    /// Host's device, pod's device, its link address, the namespace; none from an IPAM plugin.
    pub(super) devices: Option<(&'a str, &'a str, String, &'a Path)>,
}

impl Attached<'_> {
    /// The result in the form of a version.
    pub(super) fn text(&self, version: &str) -> String {
        let mut result = json!({"cniVersion": version, "dns": {}});
        let net = |ip: &IpAddr| ipnet::IpNet::from(*ip).to_string();
        if version.starts_with("0.1.") || version.starts_with("0.2.") {
            for ip in self.addresses {
                let field = if ip.is_ipv4() { "ip4" } else { "ip6" };
                result[field] = json!({"ip": net(ip)});
            }
            return result.to_string();
        }
        let address = |ip: &IpAddr| {
            let mut entry = json!({"address": net(ip)});
            if version.starts_with("0.") {
                entry["version"] = json!(if ip.is_ipv4() { "4" } else { "6" });
            }
            if self.devices.is_some() {
                entry["interface"] = json!(1);
            }
            entry
        };
        result["ips"] = self.addresses.iter().map(address).collect();
        if let Some((host, pod, mac, netns)) = &self.devices {
            result["interfaces"] =
                json!([{"name": host}, {"name": pod, "mac": mac, "sandbox": netns}]);
        }
        result.to_string()
    }
}

/// The addresses of a result of any version.
pub(super) fn addresses_of(result: &Value) -> Vec<IpAddr> {
    let listed = result["ips"].as_array().into_iter().flatten().map(|entry| &entry["address"]);
    let old = [&result["ip4"]["ip"], &result["ip6"]["ip"]];
    let texts = listed.chain(old).filter_map(Value::as_str);
    texts.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_form_of_their_version() {
        let addresses: Vec<IpAddr> =
            ["10.65.0.1", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec();
        let devices = Some(("cali1", "eth0", "02:00:00:00:00:01".to_owned(), Path::new("/n")));
        let attached = Attached { addresses: &addresses, devices };
        let of = |version| -> Value { serde_json::from_str(&attached.text(version)).unwrap() };
        assert_eq!(of("0.2.0")["ip4"]["ip"], "10.65.0.1/32");
        assert_eq!(of("0.2.0")["ip6"]["ip"], "2001:db8::1/128");
        let v4 = json!({"address": "10.65.0.1/32", "version": "4", "interface": 1});
        assert_eq!(of("0.3.1")["ips"][0], v4);
        assert_eq!(of("1.0.0")["ips"][0], json!({"address": "10.65.0.1/32", "interface": 1}));
        let pod = json!({"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/n"});
        assert_eq!(of("1.0.0")["interfaces"], json!([{"name": "cali1"}, pod]));
        for version in super::super::config::VERSIONS {
            assert_eq!(addresses_of(&of(version)), addresses, "{version}");
        }
    }
}
