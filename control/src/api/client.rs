//! Asking the daemon: HTTP/1.0 over its socket, one request a connection.

use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest time without a byte from the daemon.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("{socket}: {source}\nhint: is the daemon running? Name its socket with --socket")]
    Connect {
        /// The socket.
        socket: String,
        /// Why.
        source: std::io::Error,
    },
    /// The answer broke off.
    #[error("the daemon's answer: {0}")]
    Broken(#[from] std::io::Error),
    /// The daemon refused the question.
    #[error("{0}")]
    Refused(String),
    /// The answer is of another version.
    #[error("the daemon's answer: {0}\nhint: are the daemon and this command of one version?")]
    Format(#[from] serde_json::Error),
}

/// The answer to a question such as `/v1/status`.
pub fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    let mut body = String::new();
    open(socket, path)?.read_to_string(&mut body)?;
    Ok(serde_json::from_str(&body)?)
}

/// The answer to the wish that something be no more.
pub fn delete<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    let mut body = String::new();
    request(socket, "DELETE", path)?.read_to_string(&mut body)?;
    Ok(serde_json::from_str(&body)?)
}

/// The body of an answer as it comes, for streams.
pub fn open(socket: &Path, path: &str) -> Result<impl BufRead + use<>, ClientError> {
    request(socket, "GET", path)
}

fn request(socket: &Path, method: &str, path: &str) -> Result<impl BufRead + use<>, ClientError> {
    let connect = |source| ClientError::Connect { socket: socket.display().to_string(), source };
    let mut stream = UnixStream::connect(socket).map_err(connect)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: margay\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let code = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    if code != "200" {
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        let text = if text.is_empty() { format!("status {code}") } else { text };
        return Err(ClientError::Refused(text));
    }
    Ok(reader)
}
