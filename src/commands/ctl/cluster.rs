//! `margay ctl cluster diags`: what helps to find a fault in the whole cluster, in one archive.
//!
//! As calicoctl's: everything is asked of `kubectl`. Of each workload some pods have their logs
//! taken, those on nodes of interest first; those with a node's data plane are asked for its state
//! too. Secrets are not read. What fails is told, and its words are in the archive.

use super::write::out;
use anyhow::{Context, Result, bail};
use margay::lab::process;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Longest time that one question may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Parts of the names of namespaces, and beginnings of those of pods, that are Calico's.
const NAMESPACES: [&str; 3] = ["calico", "tigera", "margay"];
const PODS: [&str; 2] = ["calico-", "margay"];
/// Containers with a node's data plane.
const DATA_PLANES: [&str; 2] = ["calico-node", "margay"];
/// Kinds of Kubernetes, with a group where one name has two.
const KINDS: [&str; 16] = [
    "nodes",
    "namespaces",
    "configmaps",
    "daemonsets",
    "deployments",
    "statefulsets",
    "jobs",
    "cronjobs",
    "endpoints",
    "endpointslices",
    "services",
    "pods",
    "networkpolicies.networking.k8s.io",
    "clusternetworkpolicies.policy.networking.k8s.io",
    "adminnetworkpolicies.policy.networking.k8s.io",
    "baselineadminnetworkpolicies.policy.networking.k8s.io",
];
/// What a data plane is asked, and the file for the answer. Not every image has every program.
const OF_A_NODE: [(&str, &str); 10] = [
    ("margay show status -o json", "margay-status.json"),
    ("margay show drops -o json", "margay-drops.json"),
    ("iptables-save -c", "iptables-save.txt"),
    ("nft -n -a list ruleset", "nft-ruleset.txt"),
    ("ip route show table all", "ip-route.txt"),
    ("ip -6 route show table all", "ip-route-v6.txt"),
    ("ip rule", "ip-rule.txt"),
    ("ip -s -d addr", "ip-addr.txt"),
    ("ip neigh", "ip-neigh.txt"),
    ("ipset list", "ipset-list.txt"),
];

/// The whole cluster.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Cluster {
    /// Collect what helps to find a fault, by kubectl
    Diags(Diags),
}

#[derive(Debug, clap::Args)]
pub(super) struct Diags {
    /// Only logs newer than this, such as 30s, 5m or 2h [default: all]
    #[arg(long, value_name = "SINCE", default_value = "0s", hide_default_value = true)]
    #[arg(value_parser = duration)]
    since: String,
    /// Logs of at most so many pods of each workload
    #[arg(long, value_name = "MAXLOGS", default_value_t = 5)]
    max_logs: usize,
    /// Questions at the same time
    #[arg(long, value_name = "MAXPARALLELISM", default_value_t = 10)]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100))]
    max_parallelism: usize,
    /// Nodes whose pods come first
    #[arg(long, value_name = "NODES", value_delimiter = ',')]
    focus_nodes: Vec<String>,
    /// Leave the temporary folder there
    #[arg(long)]
    skip_temp_dir_cleanup: bool,
}

/// A duration as kubectl takes it: numbers, each with s, m or h.
fn duration(text: &str) -> Result<String, String> {
    let mut rest = text;
    let mut part = || -> Option<()> {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let unit =
            rest.get(digits..digits + 1).filter(|unit| digits > 0 && "smh".contains(unit))?;
        rest = &rest[digits + unit.len()..];
        Some(())
    };
    while part().is_some() {}
    match rest.is_empty() && !text.is_empty() {
        true => Ok(text.to_owned()),
        false => Err("it is no duration such as 30s, 5m or 2h".to_owned()),
    }
}

/// Arguments of kubectl, and the file for what it says.
#[derive(Debug)]
struct Question {
    words: Vec<String>,
    file: PathBuf,
}

impl Question {
    fn new(words: &str, file: impl Into<PathBuf>) -> Question {
        Question { words: words.split(' ').map(str::to_owned).collect(), file: file.into() }
    }

    fn ask(&self) -> Result<process::Output> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        process::run(process::command("kubectl", &words), "", LIMIT)
    }

    /// Asks, and writes what was said under `place`.
    fn write(&self, place: &Path) -> Result<()> {
        let file = place.join(&self.file);
        std::fs::create_dir_all(file.parent().unwrap_or(place))?;
        let said = match self.ask() {
            Ok(output) => {
                if !output.status.success() {
                    self.tell(output.stderr.trim())?;
                }
                output.stdout + &output.stderr
            }
            Err(error) => {
                self.tell(&format!("{error:#}"))?;
                format!("{error:#}\n")
            }
        };
        std::fs::write(&file, said).with_context(|| file.display().to_string())
    }

    fn tell(&self, fault: &str) -> Result<()> {
        out(&format!("Failed to run kubectl {}: {fault}\n", self.words.join(" ")))
    }
}

/// The answer to a question that the others follow from; an error is told, and the answer null.
fn asked(words: &str) -> Result<Value> {
    let question = Question::new(words, "");
    let output = question.ask()?;
    if !output.status.success() {
        question.tell(output.stderr.trim())?;
        return Ok(Value::Null);
    }
    serde_json::from_str(&output.stdout).with_context(|| format!("kubectl {words}"))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The resources of the cluster.
fn of_cluster() -> Result<Vec<Question>> {
    let mut questions = vec![Question::new("version -o yaml", "cluster/version.yaml")];
    let mut both = |kind: &str, folder: &str| {
        for (form, ending) in [("yaml", "yaml"), ("wide", "txt")] {
            let words = format!("get {kind} --all-namespaces -o {form}");
            questions.push(Question::new(&words, format!("cluster/{folder}/{kind}.{ending}")));
        }
    };
    KINDS.iter().for_each(|kind| both(kind, "kubernetes"));
    let own = ["projectcalico", "tigera"];
    let definitions = asked("get customresourcedefinitions -o json")?;
    let names = items(&definitions).map(name);
    names
        .filter(|name| own.iter().any(|one| name.contains(one)))
        .for_each(|name| both(name, "crd"));
    Ok(questions)
}

/// The pods of Calico, by namespace and what made them.
fn workloads(pods: &Value) -> BTreeMap<(&str, &str), Vec<&Value>> {
    let mut found: BTreeMap<(&str, &str), Vec<&Value>> = BTreeMap::new();
    for pod in items(pods) {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let is_own = NAMESPACES.iter().any(|part| namespace.contains(part))
            || PODS.iter().any(|start| name(pod).starts_with(start));
        if is_own {
            let maker = &pod["metadata"]["ownerReferences"][0]["name"];
            let maker = maker.as_str().unwrap_or_else(|| name(pod));
            found.entry((namespace, maker)).or_default().push(pod);
        }
    }
    found
}

impl Cluster {
    pub(super) fn execute(&self) -> Result<ExitCode> {
        let Cluster::Diags(diags) = self;
        diags.collect()
    }
}

impl Diags {
    fn collect(&self) -> Result<ExitCode> {
        let client = Question::new("version --client", "").ask();
        if !client.is_ok_and(|output| output.status.success()) {
            bail!("missing dependency: kubectl\nhint: it must be on the PATH, and start");
        }
        out("==== Begin collecting diagnostics. ====\n")?;
        let stamp = process::command("date", &["-u", "+%Y%m%d_%H%M%S"]);
        let stamp = process::run_ok(stamp, "", LIMIT)?;
        let bundle = format!("calico-diagnostics-{}", stamp.trim());
        let own = format!("margay-{bundle}-{}", std::process::id());
        let temporary = std::env::temp_dir().join(own);
        let outcome = self.bundle(&temporary, &bundle);
        if !self.skip_temp_dir_cleanup {
            std::fs::remove_dir_all(&temporary).ok();
        }
        outcome.map(|()| ExitCode::SUCCESS)
    }

    fn bundle(&self, temporary: &Path, bundle: &str) -> Result<()> {
        let place = temporary.join(bundle);
        std::fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
        out(&format!("Created temporary directory: {}\n", temporary.display()))?;
        let pods = asked("get pods --all-namespaces -o json")?;
        let nodes = asked("get nodes -o json")?;
        self.ask_all(self.of_pods(&pods, &nodes)?, &place)?;
        out("Collecting resources of the cluster...\n")?;
        self.ask_all(of_cluster()?, &place)?;
        out("\n==== Producing a diagnostics bundle. ====\n")?;
        let archive = format!("{bundle}.tar.gz");
        let mut tar = process::command("tar", &["-zcf", &archive, bundle]);
        tar.current_dir(temporary);
        process::run_ok(tar, "", LIMIT).context("Could not create new archive")?;
        std::fs::copy(temporary.join(&archive), &archive)
            .context("Could not create new archive")?;
        out(&format!("Diagnostic bundle created at ./{archive}\n"))
    }

    /// What is asked of pods and of the nodes that they run on.
    fn of_pods(&self, pods: &Value, nodes: &Value) -> Result<Vec<Question>> {
        let all = items(nodes).map(name);
        let order: Vec<&str> = self.focus_nodes.iter().map(String::as_str).chain(all).collect();
        let node_of = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or("none").to_owned();
        let rank = |pod: &Value| {
            let node = node_of(pod);
            order.iter().position(|one| *one == node).unwrap_or(order.len())
        };
        let mut questions = Vec::new();
        for ((namespace, _), mut pods) in workloads(pods) {
            pods.sort_by_key(|pod| rank(pod));
            for pod in pods.into_iter().take(self.max_logs) {
                let (node, pod_name) = (node_of(pod), name(pod));
                out(&format!(
                    "Collecting detailed diags for pod {pod_name} in namespace {namespace} on node \
                     {node}...\n"
                ))?;
                let folder = format!("nodes/{node}");
                let since = &self.since;
                let logs =
                    format!("logs --since={since} -n {namespace} {pod_name} --all-containers");
                questions
                    .push(Question::new(&logs, format!("{folder}/{namespace}/{pod_name}.log")));
                let describe = format!("-n {namespace} describe pods {pod_name}");
                let file = format!("{folder}/{namespace}/{pod_name}.txt");
                questions.push(Question::new(&describe, file));
                let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
                let mut names = containers.filter_map(|one| one["name"].as_str());
                let Some(container) = names.find(|one| DATA_PLANES.contains(one)) else { continue };
                let exec = format!("exec -n {namespace} {pod_name} -c {container} --");
                let of_node = OF_A_NODE.iter().map(|(command, file)| {
                    Question::new(&format!("{exec} {command}"), format!("{folder}/{file}"))
                });
                questions.extend(of_node);
            }
        }
        Ok(questions)
    }

    /// Asks so many at a time.
    fn ask_all(&self, questions: Vec<Question>, place: &Path) -> Result<()> {
        let threads = self.max_parallelism.min(questions.len());
        let left = Mutex::new(questions.into_iter());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        std::thread::scope(|scope| {
            let ask = || -> Result<()> {
                while let Some(question) = next() {
                    question.write(place)?;
                }
                Ok(())
            };
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| bail!("a thread has panicked"))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_those_of_kubectl() {
        for good in ["0s", "30s", "5m", "2h", "1h30m"] {
            assert_eq!(duration(good).as_deref(), Ok(good));
        }
        for bad in ["", "5", "h", "5d", "-5m", "5m ", "1.5h", "5mé"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pods_of_each_workload_are_taken_those_in_focus_first() {
        let pod = |namespace: &str, name: &str, maker: &str, node: &str| {
            json!({"metadata": {"namespace": namespace, "name": name,
                "ownerReferences": [{"name": maker}]},
                "spec": {"nodeName": node, "containers": [{"name": maker}]}})
        };
        let pods = json!({"items": [
            pod("kube-system", "calico-node-1", "calico-node", "a"),
            pod("kube-system", "calico-node-2", "calico-node", "b"),
            pod("kube-system", "calico-node-3", "calico-node", "c"),
            pod("kube-system", "coredns-1", "coredns", "a"),
            pod("calico-system", "typha-1", "typha", "c"),
        ]});
        let nodes = ["a", "b", "c"].map(|name| json!({"metadata": {"name": name}}));
        let nodes = json!({"items": nodes});
        let diags = Diags {
            since: "5m".to_owned(),
            max_logs: 2,
            max_parallelism: 1,
            focus_nodes: vec!["c".to_owned()],
            skip_temp_dir_cleanup: false,
        };
        let questions = diags.of_pods(&pods, &nodes).unwrap();
        let logs: Vec<String> = questions
            .iter()
            .filter(|one| one.words[0] == "logs")
            .map(|one| one.file.display().to_string())
            .collect();
        let expected = [
            "nodes/c/calico-system/typha-1.log",
            "nodes/c/kube-system/calico-node-3.log",
            "nodes/a/kube-system/calico-node-1.log",
        ];
        assert_eq!(logs, expected);
        let exec = questions.iter().filter(|one| one.words[0] == "exec").count();
        assert_eq!(exec, 2 * OF_A_NODE.len());
    }
}
