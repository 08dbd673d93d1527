//! Credentials that a program gives, as kubectl asks for them: client.authentication.k8s.io, v1 and
//! v1beta1.
//!
//! The program gets KUBERNETES_EXEC_INFO and no terminal, and prints an ExecCredential with a
//! token. It is asked again when that has run out, or when the server takes it no more. Left out,
//! with an error that says so: client certificates by this way.

use crate::ipam::time;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time that the program may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at whether it has ended.
const LOOK: Duration = Duration::from_millis(5);
/// Most bytes that it may print.
const OUTPUT_MAX: u64 = 1 << 20;
const VERSIONS: [&str; 2] =
    ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];

/// A program, and how it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exec {
    api: String,
    command: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    hint: String,
}

/// A kubeconfig's `exec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    api_version: String,
    command: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    install_hint: String,
    interactive_mode: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

impl Exec {
    /// What a kubeconfig in `folder` says.
    pub(super) fn of(exec: Value, folder: &Path) -> Result<Exec, String> {
        let spec: Spec = serde_json::from_value(exec).map_err(|error| format!("exec: {error}"))?;
        if !VERSIONS.contains(&spec.api_version.as_str()) {
            let known = VERSIONS.join(", ");
            return Err(format!("exec.apiVersion '{}' is none of {known}", spec.api_version));
        }
        if spec.command.is_empty() {
            return Err("exec.command is missing".to_owned());
        }
        if spec.interactive_mode == "Always" {
            return Err("exec.interactiveMode is Always, and there is nobody to ask".to_owned());
        }
        // A path is seen from the file; a name alone is looked for in PATH.
        let command = match spec.command.contains('/') {
            true => folder.join(&spec.command),
            false => PathBuf::from(&spec.command),
        };
        let env = spec.env.unwrap_or_default().into_iter().map(|one| (one.name, one.value));
        Ok(Exec {
            api: spec.api_version,
            command,
            args: spec.args.unwrap_or_default(),
            env: env.collect(),
            hint: spec.install_hint,
        })
    }

    /// Asks for a token; with it the moment when it runs out, in seconds since 1970. Blocks.
    pub(super) fn token(&self) -> Result<(String, Option<u64>), String> {
        let name = self.command.display();
        let info = json!({"apiVersion": self.api, "kind": "ExecCredential",
            "spec": {"interactive": false}});
        let child = Command::new(&self.command)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("KUBERNETES_EXEC_INFO", info.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let hint = if self.hint.is_empty() { String::new() } else { format!(" ({})", self.hint) };
        let child = child.map_err(|error| format!("{name}: {error}{hint}"))?;
        let text = output(child).map_err(|error| format!("{name}: {error}{hint}"))?;
        self.read(&text).map_err(|error| format!("{name}: {error}"))
    }

    fn read(&self, text: &str) -> Result<(String, Option<u64>), String> {
        let answer: Value = serde_json::from_str(text)
            .map_err(|error| format!("its answer is no ExecCredential: {error}"))?;
        if answer["kind"] != "ExecCredential" || answer["apiVersion"] != self.api.as_str() {
            return Err(format!("its answer is no ExecCredential of {}", self.api));
        }
        let status = &answer["status"];
        match status["token"].as_str().filter(|token| !token.is_empty()) {
            Some(token) => {
                let end = status["expirationTimestamp"].as_str().and_then(time::parse);
                Ok((token.to_owned(), end))
            }
            None if status["clientCertificateData"].is_string() => {
                Err("it gives a client certificate, which is not supported: only tokens".to_owned())
            }
            None => Err("its answer has no status.token".to_owned()),
        }
    }
}

/// What a program prints, if it ends well and in time.
fn output(mut child: Child) -> Result<String, String> {
    let stdout = child.stdout.take().ok_or("it has no output")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.take(OUTPUT_MAX).read_to_string(&mut text).map(|_| text)
    });
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if begin.elapsed() > LIMIT => {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it takes longer than {} s", LIMIT.as_secs()));
            }
            None => std::thread::sleep(LOOK),
        }
    };
    if !status.success() {
        return Err(format!("it ended with {status}"));
    }
    let text = reader.join().map_err(|_| "its output cannot be read".to_owned())?;
    text.map_err(|error| format!("its output: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Exec {
        let exec = json!({"apiVersion": VERSIONS[0], "command": "sh", "args": ["-c", script],
            "env": [{"name": "WHO", "value": "me"}], "installHint": "get it"});
        Exec::of(exec, Path::new("/folder")).unwrap()
    }

    #[test]
    fn a_program_gives_a_token_and_its_end() {
        let script = r#"echo "$KUBERNETES_EXEC_INFO" | grep -q '"interactive":false' || exit 3
            echo '{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1",
            "status": {"token": "t-'$WHO'", "expirationTimestamp": "2026-01-05T09:00:00Z"}}'"#;
        let expected = ("t-me".to_owned(), Some(1_767_603_600));
        assert_eq!(shell(script).token(), Ok(expected));
    }

    #[test]
    fn what_goes_wrong_is_named() {
        for (script, words) in [
            ("exit 4", "exit status: 4"),
            ("echo x", "no ExecCredential"),
            (
                "echo '{\"kind\": \"ExecCredential\", \"apiVersion\": \"v0\"}'",
                "no ExecCredential of",
            ),
        ] {
            let error = shell(script).token().unwrap_err();
            assert!(error.contains(words) && error.starts_with("sh: "), "{error}");
        }
        let api = VERSIONS[0];
        let answer = |status: Value| {
            let answer = json!({"kind": "ExecCredential", "apiVersion": api, "status": status});
            shell("").read(&answer.to_string())
        };
        assert!(answer(json!({})).unwrap_err().contains("status.token"));
        let certificate = answer(json!({"clientCertificateData": "x"}));
        assert!(certificate.unwrap_err().contains("client certificate"));
        let of = |exec: Value| Exec::of(exec, Path::new("/folder"));
        for (exec, words) in [
            (json!({"command": "x"}), "exec.apiVersion"),
            (json!({"apiVersion": api}), "exec.command"),
            (json!({"apiVersion": api, "command": "x", "interactiveMode": "Always"}), "nobody"),
        ] {
            let error = of(exec).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let near = of(json!({"apiVersion": api, "command": "./bin/x"})).unwrap();
        assert_eq!(near.command, Path::new("/folder/./bin/x"));
        let missing = near.token().unwrap_err();
        assert!(missing.contains("No such file"), "{missing}");
    }
}
