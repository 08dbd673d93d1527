//! What the daemon lives on: each kind listed, then watched from there, by a task of its own.
//!
//! A watch that ends is taken up where it was. Where the server no longer knows that state (410
//! Gone), the kind is listed again and compared with what was told: what is still there is not told
//! again. While the server is away, or refuses a kind, nothing is removed, and the report says
//! since when. An object that cannot be used leaves the last good one in force.

use super::connection::{Lines, Refusal, Status};
use super::kind::{self, Form, Place};
use super::view::View;
use super::{Objects, Server, custom, node, pod, secrets};
use crate::random;
use crate::resource::{Key, Resource};
use crate::store::datastore::Document;
use crate::store::watch::Batch;
use crate::store::{Fault, document};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Waits between tries to reach the server: the first, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A kind that the server does not serve is asked for again after so long.
const UNSERVED: Duration = Duration::from_secs(30);
/// The server ends a watch after so many seconds, and up to as many more.
const WATCH_S: u64 = 300;
/// So much later a watch that has not ended is taken for dead.
const SLACK: Duration = Duration::from_secs(30);
/// A watch that the server ends sooner has failed.
const SHORT: Duration = Duration::from_secs(5);
/// News that may wait to be put together.
const NEWS: usize = 256;

/// What the task of one kind tells.
#[derive(Debug)]
pub(super) struct News {
    /// Which of the kinds that are followed.
    pub(super) source: usize,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// These are all.
    All(Vec<Object>),
    /// An object is new or different.
    Put(Box<Object>),
    /// The object of this namespace and name is gone.
    Gone(Name),
    /// The server answers.
    Found,
    /// It does not.
    Lost(String),
}

/// Namespace and name of an object.
pub(super) type Name = (String, String);

/// An object, as far as it counts: a whole one may be large.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) name: Name,
    /// None where it is no resource, as a Pod without addresses.
    pub(super) resource: Result<Option<(Key, Resource)>, Fault>,
}

/// An event of a watch.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    object: Value,
}

/// Why a watch has come to an end.
enum End {
    /// Nobody listens.
    Unheard,
    /// It cannot go on from where it was.
    Behind,
    /// As the server ends each after its time.
    Over,
    Failed(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        match refusal.is_expired() {
            true => End::Behind,
            false => End::Failed(refusal),
        }
    }
}

/// Follows the server until nobody listens.
pub(super) async fn run(server: Arc<Server>, sender: mpsc::Sender<Batch>) {
    let native = tokio::select! {
        () = sender.closed() => return,
        native = group(&server, &sender) => native,
    };
    let kinds = kind::FOLLOWED.into_iter().chain([kind::ENDPOINTS]);
    let places: Vec<Place> = kinds.filter_map(|name| kind::place(name, native)).collect();
    let (news, mut told) = mpsc::channel(NEWS);
    // Dropped, and with it the tasks, when this ends.
    let mut tasks = JoinSet::new();
    for (source, place) in places.iter().enumerate() {
        let path = place.path();
        let task = Source { server: server.clone(), place: place.clone(), path, source };
        tasks.spawn(task.run(news.clone()));
    }
    let mut secrets = secrets::Wanted::new(places.len());
    let mut view = View::new(places.len());
    let mut waiting = Vec::with_capacity(NEWS);
    loop {
        tokio::select! {
            () = sender.closed() => return,
            _ = told.recv_many(&mut waiting, NEWS) => {}
        }
        for one in waiting.drain(..) {
            for task in secrets.of(&server, &one.what) {
                tasks.spawn(task.run(news.clone()));
            }
            view.take(one);
        }
        if let Some(batch) = view.batch()
            && sender.send(batch).await.is_err()
        {
            return;
        }
    }
}

/// Finds out which group has Calico's resources; until that is known, the store is lost.
async fn group(server: &Server, sender: &mpsc::Sender<Batch>) -> bool {
    let (mut view, mut wait) = (View::new(0), WAIT.0);
    loop {
        let refusal = match server.is_native().await {
            Ok(native) => return native,
            Err(refusal) => refusal,
        };
        view.lose(0, refusal.message);
        if let Some(batch) = view.batch() {
            let _ = sender.send(batch).await;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT.1);
    }
}

/// One kind.
pub(super) struct Source {
    pub(super) server: Arc<Server>,
    pub(super) place: Place,
    /// Of all its objects, or with a selector of some.
    pub(super) path: String,
    pub(super) source: usize,
}

impl Source {
    pub(super) async fn run(self, news: mpsc::Sender<News>) {
        let (mut version, mut wait) = (None, WAIT.0);
        loop {
            let before = version.clone();
            let end = self.follow(&mut version, &news).await;
            if version != before {
                wait = WAIT.0;
            }
            let path = &self.path;
            match end {
                End::Unheard => return,
                End::Over => continue,
                End::Behind => {
                    tracing::info!("{path}: the watch cannot go on, everything is read again");
                    version = None;
                }
                End::Failed(refusal)
                    if refusal.is_missing() || self.place.is_optional() && refusal.code == 403 =>
                {
                    if refusal.code == 403 {
                        tracing::warn!("{path}: {}; it counts as not there", refusal.message);
                    }
                    version = None;
                    if self.tell(&news, What::All(Vec::new())).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(UNSERVED).await;
                    continue;
                }
                End::Failed(refusal) => {
                    let url = self.server.connection.server();
                    let why = match refusal.message.strip_prefix(url) {
                        Some(rest) => format!("{url}{path}{rest}"),
                        None => format!("{url}{path}: {}", refusal.message),
                    };
                    if self.tell(&news, What::Lost(why)).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(WAIT.1);
        }
    }

    async fn tell(&self, news: &mpsc::Sender<News>, what: What) -> Result<(), End> {
        news.send(News { source: self.source, what }).await.map_err(|_| End::Unheard)
    }

    /// Lists if it must, and watches; `version` is what has been told.
    async fn follow(&self, version: &mut Option<String>, news: &mpsc::Sender<News>) -> End {
        let outcome: Result<(), End> = async {
            let path = &self.path;
            let from = match version.clone() {
                Some(from) => from,
                None => {
                    let take = |object| Object::new(&self.place, object);
                    let Objects { items, version: from } =
                        self.server.all(path, false, take).await?;
                    self.tell(news, What::All(items)).await?;
                    *version = Some(from.clone());
                    from
                }
            };
            let seconds = WATCH_S + u64::from(random::bytes::<1>()[0]) * WATCH_S / 256;
            let path = format!(
                "{path}{}watch=true&allowWatchBookmarks=true&resourceVersion={from}\
                 &timeoutSeconds={seconds}",
                kind::joint(path)
            );
            let mut lines = self.server.connection.lines(&path).await?;
            self.tell(news, What::Found).await?;
            let limit = Duration::from_secs(seconds) + SLACK;
            let reading = self.read(&mut lines, version, news);
            tokio::time::timeout(limit, reading).await.unwrap_or(Err(End::Over))
        }
        .await;
        outcome.err().unwrap_or(End::Over)
    }

    async fn read(
        &self,
        lines: &mut Lines,
        version: &mut Option<String>,
        news: &mpsc::Sender<News>,
    ) -> Result<(), End> {
        let broken = |message: String| {
            End::Failed(Refusal { code: 0, reason: String::new(), message, repeated: false })
        };
        let begin = Instant::now();
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                // A server that ends each watch at once is not asked in a hurry.
                Ok(None) if begin.elapsed() < SHORT => {
                    return Err(broken("the watch has ended".to_owned()));
                }
                Ok(None) => return Err(End::Over),
                Err(why) => return Err(broken(why)),
            };
            let event: Event = serde_json::from_slice(&line)
                .map_err(|error| broken(format!("a watch tells no JSON: {error}")))?;
            let object = event.object;
            let now = object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
            match event.kind.as_str() {
                "ADDED" | "MODIFIED" => {
                    let object = Box::new(Object::new(&self.place, object));
                    self.tell(news, What::Put(object)).await?;
                }
                "DELETED" => self.tell(news, What::Gone(name_of(&object))).await?,
                "BOOKMARK" => {}
                "ERROR" => {
                    let status: Status = serde_json::from_value(object).unwrap_or_default();
                    return Err(status.refusal().into());
                }
                other => tracing::debug!(event = other, "a watch tells what is not known"),
            }
            // Only what has been told counts.
            *version = now.or(version.take());
        }
    }
}

impl Object {
    fn new(place: &Place, object: Value) -> Object {
        let name = name_of(&object);
        let resource = typed(place, object);
        Object { name, resource }
    }
}

fn name_of(object: &Value) -> Name {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn typed(place: &Place, object: Value) -> Result<Option<(Key, Resource)>, Fault> {
    let (namespace, name) = name_of(&object);
    let Some(found) = decode(place, object)? else { return Ok(None) };
    let value = Value::Object(found.value);
    match document::resource(&found.key.kind, &value) {
        Ok(resource) => Ok(Some((found.key, resource))),
        Err((what, mend)) => {
            let (file, what) = (place.path_of(&namespace, &name), format!("{}: {what}", found.key));
            Err(Fault { file, line: 0, what, mend })
        }
    }
}

/// The document that an object is, if it is one; a fault names its path.
pub(super) fn decode(place: &Place, mut object: Value) -> Result<Option<Document>, Fault> {
    let (namespace, name) = name_of(&object);
    let path = place.path_of(&namespace, &name);
    let outcome = match place.form {
        Form::Wrapped | Form::Native => custom::decode(place, object).map(Some),
        Form::Node => node::decode(&object).map(Some),
        Form::Pod => pod::decode(&object),
        Form::Plain => {
            // Items of lists do not say what they are.
            if object.is_object() {
                object["kind"] = json!(place.kind);
                object["apiVersion"] = json!(place.api);
            }
            Document::new(object).map(Some).map_err(|error| error.to_string())
        }
    };
    outcome.map_err(|what| {
        let mend = "correct it, or delete it".to_owned();
        Fault { file: path, line: 0, what, mend }
    })
}
