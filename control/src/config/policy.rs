//! What the configuration says of policy, in Felix's words where it has them.

use super::failsafe::{self, FailsafePort};
use super::log_action::{BURST_MAX, LogAction, LogRate};
use super::{Config, ConfigError};
use margay_acl::model::Settings;
use margay_fastpath::policy::ToHost;
use serde::{Deserialize, Serialize};

/// Settings of policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicySettings {
    /// What pods may send to the host itself, after their egress rules.
    pub default_endpoint_to_host_action: EndpointToHost,
    /// Whether endpoints may send from the prefixes that their resources allow.
    pub workload_source_spoofing: SourceSpoofing,
    /// Judge established flows anew when policy changes; Calico's live on.
    pub reevaluate_flows: bool,
    /// Ports of the host that no policy closes.
    pub failsafe_inbound_host_ports: Vec<FailsafePort>,
    /// Ports of others that the host may always reach.
    pub failsafe_outbound_host_ports: Vec<FailsafePort>,
    /// Leave the kernel's rules for host endpoints when the daemon stops.
    pub keep_host_policy: bool,
    /// What rules with action Log begin a line of the kernel's log with.
    pub log_prefix: String,
    /// How many lines each of these rules may write; all without.
    pub log_action_rate_limit: Option<LogRate>,
    /// How many of them at once, 0 to [`BURST_MAX`].
    pub log_action_rate_limit_burst: u16,
}

/// What becomes of packets of pods to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EndpointToHost {
    /// They are dropped.
    Drop,
    /// The host's own rules decide, as calico-node sets it.
    #[default]
    Return,
    /// They pass.
    Accept,
}

/// Sources that are not an endpoint's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SourceSpoofing {
    /// None.
    #[default]
    Disabled,
    /// Those in `allowSpoofedSourcePrefixes` of a WorkloadEndpoint.
    Any,
}

impl From<EndpointToHost> for ToHost {
    fn from(action: EndpointToHost) -> ToHost {
        match action {
            EndpointToHost::Drop => ToHost::Drop,
            EndpointToHost::Return | EndpointToHost::Accept => ToHost::Accept,
        }
    }
}

impl Default for PolicySettings {
    fn default() -> PolicySettings {
        let LogAction { prefix, rate, burst } = LogAction::default();
        PolicySettings {
            default_endpoint_to_host_action: EndpointToHost::default(),
            workload_source_spoofing: SourceSpoofing::default(),
            reevaluate_flows: false,
            failsafe_inbound_host_ports: failsafe::inbound(),
            failsafe_outbound_host_ports: failsafe::outbound(),
            keep_host_policy: false,
            log_prefix: prefix,
            log_action_rate_limit: rate,
            log_action_rate_limit_burst: burst,
        }
    }
}

impl PolicySettings {
    /// What they mean to policy itself. Pods' own tunnels are not its business: the packet path
    /// drops them before.
    pub fn settings(&self) -> Settings {
        Settings {
            failsafe_in: self.failsafe_inbound_host_ports.iter().map(Into::into).collect(),
            failsafe_out: self.failsafe_outbound_host_ports.iter().map(Into::into).collect(),
            vxlan_port_denied: None,
            denies_ipip: false,
        }
    }

    /// What rules with action Log do.
    pub fn log_action(&self) -> LogAction {
        let (rate, burst) = (self.log_action_rate_limit, self.log_action_rate_limit_burst);
        match &*self.log_prefix {
            "" => LogAction { rate, burst, ..LogAction::default() },
            prefix => LogAction { prefix: prefix.to_owned(), rate, burst },
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        LogAction::check_prefix(&self.log_prefix, "policy.logPrefix")?;
        match self.log_action_rate_limit_burst {
            burst if burst > BURST_MAX => Err(ConfigError::new(
                "policy.logActionRateLimitBurst",
                format!("{burst} lines at once"),
                format!("0 to {BURST_MAX}"),
            )),
            _ => Ok(()),
        }
    }
}

/// Felix's variables.
pub(super) fn apply(
    config: &mut Config,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(), ConfigError> {
    let text = |name: &str| environment(name).filter(|value| !value.is_empty());
    let policy = &mut config.policy;
    let name = "FELIX_DEFAULTENDPOINTTOHOSTACTION";
    if let Some(action) = text(name) {
        policy.default_endpoint_to_host_action = match action.to_ascii_uppercase().as_str() {
            "DROP" => EndpointToHost::Drop,
            "RETURN" => EndpointToHost::Return,
            "ACCEPT" => EndpointToHost::Accept,
            _ => {
                let what = format!("'{action}' is unknown");
                return Err(ConfigError::new(name, what, "Drop, Return or Accept"));
            }
        };
    }
    for (name, ports) in [
        ("FELIX_FAILSAFEINBOUNDHOSTPORTS", &mut policy.failsafe_inbound_host_ports),
        ("FELIX_FAILSAFEOUTBOUNDHOSTPORTS", &mut policy.failsafe_outbound_host_ports),
    ] {
        if let Some(list) = text(name) {
            *ports = failsafe::parse(name, &list)?;
        }
    }
    apply_log(policy, &text)?;
    let name = "FELIX_WORKLOADSOURCESPOOFING";
    if let Some(spoofing) = text(name) {
        policy.workload_source_spoofing = match spoofing.to_ascii_lowercase().as_str() {
            "disabled" => SourceSpoofing::Disabled,
            "any" => SourceSpoofing::Any,
            _ => {
                let what = format!("'{spoofing}' is unknown");
                return Err(ConfigError::new(name, what, "Disabled or Any"));
            }
        };
    }
    Ok(())
}

fn apply_log(
    policy: &mut PolicySettings,
    text: &dyn Fn(&str) -> Option<String>,
) -> Result<(), ConfigError> {
    let name = "FELIX_LOGPREFIX";
    if let Some(prefix) = text(name) {
        LogAction::check_prefix(&prefix, name)?;
        policy.log_prefix = prefix;
    }
    let name = "FELIX_LOGACTIONRATELIMIT";
    if let Some(rate) = text(name) {
        let rate = LogRate::try_from(rate);
        let rate = rate.map_err(|what| ConfigError::new(name, what, "10/second, 100/hour"))?;
        policy.log_action_rate_limit = Some(rate);
    }
    let name = "FELIX_LOGACTIONRATELIMITBURST";
    if let Some(burst) = text(name) {
        let number = burst.parse().ok().filter(|burst| *burst <= BURST_MAX);
        let wrong = || {
            let what = format!("'{burst}' is no number of lines");
            ConfigError::new(name, what, format!("0 to {BURST_MAX}"))
        };
        policy.log_action_rate_limit_burst = number.ok_or_else(wrong)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_felix_variables_count() {
        let text = "policy: {defaultEndpointToHostAction: Drop, workloadSourceSpoofing: Any, \
                    reevaluateFlows: true}";
        let config = Config::parse(text, "margay.yaml").unwrap();
        assert_eq!(ToHost::from(config.policy.default_endpoint_to_host_action), ToHost::Drop);
        assert!(config.policy.reevaluate_flows);
        assert!(Config::parse("policy: {workloadSourceSpoofing: Some}", "f").is_err());
        let mut config = Config::default();
        let variables = |name: &str| match name {
            "FELIX_DEFAULTENDPOINTTOHOSTACTION" => Some("ACCEPT".to_owned()),
            "FELIX_WORKLOADSOURCESPOOFING" => Some("Any".to_owned()),
            _ => None,
        };
        apply(&mut config, &variables).unwrap();
        assert_eq!(config.policy.default_endpoint_to_host_action, EndpointToHost::Accept);
        assert_eq!(config.policy.workload_source_spoofing, SourceSpoofing::Any);
        let wrong = |_: &str| Some("maybe".to_owned());
        assert!(apply(&mut config, &wrong).is_err());
    }

    #[test]
    fn the_kernel_s_log_is_set_as_felix_s() {
        let text = "policy: {logPrefix: '%t %p', logActionRateLimit: 10/minute, \
                    logActionRateLimitBurst: 9999}";
        let config = Config::parse(text, "margay.yaml").unwrap();
        let rate = Some(LogRate { count: 10, unit_s: 60 });
        let expected = LogAction { prefix: "%t %p".to_owned(), rate, burst: BURST_MAX };
        assert_eq!(config.policy.log_action(), expected);
        for wrong in ["logPrefix: 'a\"b'", "logActionRateLimit: 1/year"] {
            let text = format!("policy: {{{wrong}}}");
            let config = Config::parse(&text, "f").and_then(|config| config.check());
            assert!(config.is_err(), "{wrong}");
        }
        let high = Config::parse("policy: {logActionRateLimitBurst: 10000}", "f");
        assert!(high.and_then(|config| config.check()).is_err());
        let mut config = Config::default();
        assert_eq!(config.policy.log_action(), LogAction::default());
        let variables = |name: &str| match name {
            "FELIX_LOGPREFIX" => Some("edge".to_owned()),
            "FELIX_LOGACTIONRATELIMIT" => Some("5/second".to_owned()),
            "FELIX_LOGACTIONRATELIMITBURST" => Some("7".to_owned()),
            _ => None,
        };
        apply(&mut config, &variables).unwrap();
        let rate = Some(LogRate { count: 5, unit_s: 1 });
        let expected = LogAction { prefix: "edge".to_owned(), rate, burst: 7 };
        assert_eq!(config.policy.log_action(), expected);
        for name in ["FELIX_LOGACTIONRATELIMIT", "FELIX_LOGACTIONRATELIMITBURST"] {
            let wrong = |asked: &str| (asked == name).then(|| "many".to_owned());
            assert!(apply(&mut config, &wrong).is_err(), "{name}");
        }
    }
}
