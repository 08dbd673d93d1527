//! Kubernetes' API as Calico uses it: custom resources, and what Nodes, Pods and the like say.
//!
//! `access` knows where the server is and who we are, `dial` and `connection` speak HTTP with it,
//! `kind` knows the paths; `custom`, `node`, `pod` and `profile` turn objects into documents and
//! back, and `follow` lists and watches what the daemon lives on. A write compares the
//! resourceVersion; one that is repeated because its answer was lost, and finds what it wrote, is
//! done. Everything keeps to the rights that Calico's manifest gives calico-node, and to those to
//! Secrets with BGP's passwords that people may add. Left out: `usePodCIDR`.

mod access;
mod connection;
mod custom;
mod dial;
mod exec;
mod follow;
mod kind;
mod knp;
mod node;
mod pod;
mod profile;
mod secrets;
#[cfg(test)]
mod tests;
mod tls;
mod view;

use super::Fault;
use super::datastore::{Datastore, Document, Listing, Revision, StoreError};
use super::watch::Batch;
use crate::config::StoreConfig;
use crate::resource::Key;
use access::Access;
use connection::{Call, Connection, Refusal};
use hyper::Method;
use kind::{Form, Place, place};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::{OnceCell, mpsc};

/// Most objects that one answer lists; longer lists come in parts of one state.
const PAGE: usize = 500;
/// Batches that may wait for the control loop.
const QUEUE: usize = 4;
const JSON: &str = "application/json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// An API server as a datastore.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    connection: Connection,
    /// Calico's resources are in the group `projectcalico.org/v3`, once that is known.
    native: OnceCell<bool>,
    /// Where passwords of BGP are.
    secret_namespaces: Vec<String>,
}

/// What became of all objects of a path at one state.
#[derive(Debug)]
struct Objects<T> {
    items: Vec<T>,
    version: String,
}

impl Kubernetes {
    /// Reads kubeconfig and certificates, connects when first used. Needs a runtime.
    pub fn new(config: &StoreConfig) -> Result<Kubernetes, StoreError> {
        let connection = Connection::new(Access::new(config)?);
        let native = match config.calico_api_group.as_str() {
            "" => OnceCell::new(),
            group => OnceCell::new_with(Some(group == kind::V3)),
        };
        let secret_namespaces = config.secret_namespaces.clone();
        Ok(Kubernetes { server: Arc::new(Server { connection, native, secret_namespaces }) })
    }

    async fn place_of(&self, kind: &str) -> Result<Option<Place>, StoreError> {
        Ok(place(kind, self.server.is_native().await.map_err(Refusal::error)?))
    }

    async fn call(&self, call: Call<'_>) -> Result<Value, Refusal> {
        self.server.connection.call(call).await
    }

    /// An object, under whichever of its names.
    async fn object(&self, place: &Place, key: &Key) -> Result<(String, Value), StoreError> {
        let names = match place.form {
            Form::Pod => pod::name_of(key).into_iter().collect(),
            _ => place.names(key),
        };
        for name in names {
            let path = place.path_of(&key.namespace, &name);
            match self.server.connection.get(&path).await {
                Ok(object) => return Ok((name, object)),
                Err(refusal) if refusal.is_missing() => {}
                Err(refusal) => return Err(refused(key, refusal)),
            }
        }
        Err(StoreError::NotFound(key.clone()))
    }

    async fn list_placed(&self, kind: &str) -> Result<Listing, StoreError> {
        let Some(place) = self.place_of(kind).await? else { return Ok(Listing::default()) };
        let take = |object| follow::decode(&place, object);
        let objects = match self.server.all(&place.path(), true, take).await {
            Err(refusal) if refusal.is_missing() => return Ok(Listing::default()),
            outcome => outcome.map_err(Refusal::error)?,
        };
        let mut listing = Listing::default();
        for outcome in objects.items {
            match outcome {
                Ok(document) => listing.documents.extend(document),
                Err(fault) => listing.faults.push(fault),
            }
        }
        listing.documents.sort_by(|one, other| one.key.cmp(&other.key));
        listing.revision = Some(Revision(objects.version));
        Ok(listing)
    }

    async fn get_placed(&self, key: &Key) -> Result<Document, StoreError> {
        let Some(place) = self.place_of(&key.kind).await? else {
            return Err(StoreError::NotFound(key.clone()));
        };
        let (_, object) = self.object(&place, key).await?;
        let document = decoded(&place, key, object)?;
        // A pod may have moved, and its endpoint's name with it.
        match document.key.name == key.name || place.form != Form::Pod {
            true => Ok(document),
            false => Err(StoreError::NotFound(key.clone())),
        }
    }

    /// Writes a custom resource's object; `method` and path say how.
    async fn write(
        &self,
        place: &Place,
        document: &Document,
        call: Call<'_>,
    ) -> Result<Document, StoreError> {
        let sent = call.body.as_ref().map(|(_, body)| body.clone()).unwrap_or_default();
        let is_new = call.method == Method::POST;
        match self.call(call).await {
            Ok(answer) => decoded(place, &document.key, answer),
            Err(refusal) if refusal.repeated && refusal.code == 409 => {
                let (_, now) = self.object(place, &document.key).await?;
                let sent: Value = serde_json::from_slice(&sent).unwrap_or_default();
                let same = ["/spec", "/metadata/annotations", "/metadata/labels"];
                match same.iter().all(|part| now.pointer(part) == sent.pointer(part)) {
                    true => decoded(place, &document.key, now),
                    // Whether the first try was done, and then written over, nobody knows.
                    false if refusal.reason == "Conflict" => {
                        let what =
                            format!("{} has changed while its answer was lost", document.key);
                        Err(StoreError::Unavailable(what))
                    }
                    false => Err(refused(&document.key, refusal)),
                }
            }
            // Its namespace is missing, or the kind itself.
            Err(refusal) if is_new && refusal.is_missing() => Err(refusal.error()),
            Err(refusal) => Err(refused(&document.key, refusal)),
        }
    }

    /// Changes the annotations of the Pod that an endpoint is.
    async fn patch_pod(&self, key: &Key, patch: &Value) -> Result<Option<Document>, StoreError> {
        let Some(name) = pod::name_of(key) else {
            let what = "Kubernetes keeps endpoints of its pods only".to_owned();
            return Err(StoreError::Invalid { key: key.clone(), what });
        };
        let Some(place) = place("WorkloadEndpoint", false) else {
            return Err(StoreError::NotFound(key.clone()));
        };
        let path = format!("{}/status", place.path_of(&key.namespace, &name));
        let body = Some((STRATEGIC_PATCH, patch.to_string().into_bytes()));
        let answer = self.call(Call { method: Method::PATCH, path: &path, body }).await;
        let answer = answer.map_err(|refusal| refused(key, refusal))?;
        let invalid = |what| StoreError::Invalid { key: key.clone(), what };
        pod::decode(&answer).map_err(invalid)
    }

    async fn put_pod(&self, document: &Document) -> Result<Document, StoreError> {
        let written = self.patch_pod(&document.key, &pod::patch(document)).await?;
        let what = "its pod has no node, or the node's own network, or has ended";
        let key = document.key.clone();
        written.ok_or(StoreError::Invalid { key, what: what.to_owned() })
    }

    async fn put_node(&self, place: &Place, document: &Document) -> Result<Document, StoreError> {
        let (name, now) = self.object(place, &document.key).await?;
        unchanged(document, &now)?;
        let path = format!("{}/status", place.path_of("", &name));
        let body = Some((JSON, node::encode(document, now).to_string().into_bytes()));
        self.write(place, document, Call { method: Method::PUT, path: &path, body }).await
    }
}

impl Server {
    /// Which group has Calico's resources: the new one only where it is there and the old is not.
    async fn is_native(&self) -> Result<bool, Refusal> {
        if let Some(known) = self.native.get() {
            return Ok(*known);
        }
        let mut served = [kind::CRD, kind::V3].into_iter();
        let found = loop {
            let Some(api) = served.next() else { break None };
            match self.connection.get_once(&kind::root(api)).await {
                Ok(_) => break Some(api == kind::V3),
                Err(refusal) if refusal.is_missing() => {}
                Err(refusal) => return Err(refusal),
            }
        };
        // Where there is neither yet, either may come.
        if let Some(native) = found {
            let _ = self.native.set(native);
        }
        Ok(found.unwrap_or(false))
    }

    /// Everything under a path, taken in part by part: whole objects may be many and large. A list
    /// that takes too long for its state begins again.
    async fn all<T>(
        &self,
        path: &str,
        patient: bool,
        take: impl Fn(Value) -> T,
    ) -> Result<Objects<T>, Refusal> {
        let mut objects = Objects { items: Vec::new(), version: String::new() };
        let mut from = String::new();
        loop {
            let part = match from.is_empty() {
                true => format!("{path}{}limit={PAGE}", kind::joint(path)),
                false => {
                    let joint = kind::joint(path);
                    format!("{path}{joint}limit={PAGE}&continue={}", kind::escaped(&from))
                }
            };
            let outcome = match patient {
                true => self.connection.get(&part).await,
                false => self.connection.get_once(&part).await,
            };
            let mut page = match outcome {
                Err(refusal) if refusal.is_expired() && !from.is_empty() => {
                    objects.items.clear();
                    from.clear();
                    continue;
                }
                outcome => outcome?,
            };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            objects.version = text(&page["metadata"]["resourceVersion"]);
            from = text(&page["metadata"]["continue"]);
            if let Value::Array(items) = page["items"].take() {
                objects.items.extend(items.into_iter().map(&take));
            }
            if from.is_empty() {
                return Ok(objects);
            }
        }
    }
}

impl Datastore for Kubernetes {
    async fn list(&self, kind: &str) -> Result<Listing, StoreError> {
        match kind {
            "Profile" => self.list_profiles().await,
            "NetworkPolicy" => self.list_policies().await,
            _ => self.list_placed(kind).await,
        }
    }

    async fn get(&self, key: &Key) -> Result<Document, StoreError> {
        if key.kind == "Profile" {
            return self.get_profile(key).await;
        }
        if let Some(name) = key.kubernetes_policy() {
            return self.get_knp(key, name).await;
        }
        self.get_placed(key).await
    }

    async fn create(&self, document: Document) -> Result<Document, StoreError> {
        let place = self.place_of(&document.key.kind).await?;
        let Some(place) = place.filter(|place| !matches!(place.form, Form::Plain | Form::Node))
        else {
            return Err(unsupported("Create", &document.key));
        };
        if place.form == Form::Pod {
            return self.put_pod(&document).await;
        }
        let names = place.names(&document.key);
        for old in names.iter().skip(1) {
            let path = place.path_of(&document.key.namespace, old);
            match self.server.connection.get(&path).await {
                Ok(_) => return Err(StoreError::Exists(document.key)),
                Err(refusal) if refusal.is_missing() => {}
                Err(refusal) => return Err(refused(&document.key, refusal)),
            }
        }
        let object = custom::encode(&place, &document, &names[0], None);
        let path = place.path_in(&document.key.namespace);
        let body = Some((JSON, object.to_string().into_bytes()));
        self.write(&place, &document, Call { method: Method::POST, path: &path, body }).await
    }

    async fn update(&self, document: Document) -> Result<Document, StoreError> {
        document.read_revision()?;
        let place = self.place_of(&document.key.kind).await?;
        let Some(place) = place.filter(|place| place.form != Form::Plain) else {
            return Err(unsupported("Update", &document.key));
        };
        let (name, now) = match place.form {
            Form::Pod => return self.put_pod(&document).await,
            Form::Node => return self.put_node(&place, &document).await,
            // Nobody but IPAM writes there: what it has read before is all.
            _ if custom::is_ipam(place.kind) => (place.names(&document.key).remove(0), None),
            _ => {
                let (name, now) = self.object(&place, &document.key).await?;
                unchanged(&document, &now)?;
                (name, Some(now))
            }
        };
        let object = custom::encode(&place, &document, &name, now);
        let path = place.path_of(&document.key.namespace, &name);
        let body = Some((JSON, object.to_string().into_bytes()));
        self.write(&place, &document, Call { method: Method::PUT, path: &path, body }).await
    }

    async fn delete(&self, document: &Document) -> Result<(), StoreError> {
        let (key, revision) = (&document.key, document.read_revision()?);
        let place = self.place_of(&key.kind).await?;
        let Some(place) = place.filter(|place| !matches!(place.form, Form::Plain | Form::Node))
        else {
            return Err(unsupported("Delete", key));
        };
        if place.form == Form::Pod {
            return self.patch_pod(key, &pod::removal(Some(revision))).await.map(drop);
        }
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
            "preconditions": {"resourceVersion": revision.0}});
        for name in place.names(key) {
            let path = place.path_of(&key.namespace, &name);
            let body = Some((JSON, options.to_string().into_bytes()));
            match self.call(Call { method: Method::DELETE, path: &path, body }).await {
                Err(refusal) if refusal.is_missing() && refusal.repeated => return Ok(()),
                Err(refusal) if refusal.is_missing() => {}
                Err(refusal) => return Err(refused(key, refusal)),
                Ok(_) => return Ok(()),
            }
        }
        Err(StoreError::NotFound(key.clone()))
    }

    fn watch(&self) -> mpsc::Receiver<Batch> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(follow::run(self.server.clone(), sender));
        receiver
    }
}

/// What a document was read from is still there.
fn unchanged(document: &Document, now: &Value) -> Result<(), StoreError> {
    match now["metadata"]["resourceVersion"] == document.read_revision()?.0.as_str() {
        true => Ok(()),
        false => Err(StoreError::Conflict(document.key.clone())),
    }
}

fn decoded(place: &Place, key: &Key, object: Value) -> Result<Document, StoreError> {
    let invalid = |fault: Fault| StoreError::Invalid { key: key.clone(), what: fault.what };
    let document = follow::decode(place, object).map_err(invalid)?;
    document.ok_or_else(|| StoreError::NotFound(key.clone()))
}

fn unsupported(operation: &str, key: &Key) -> StoreError {
    let what = format!("operation {operation} is not supported on {key}: it is Kubernetes' own");
    StoreError::Refused(what)
}

fn refused(key: &Key, refusal: Refusal) -> StoreError {
    let key = key.clone();
    match (refusal.code, refusal.reason.as_str()) {
        (404, _) => StoreError::NotFound(key),
        (409, "AlreadyExists") => StoreError::Exists(key),
        (409, _) => StoreError::Conflict(key),
        (422, _) => StoreError::Invalid { key, what: refusal.message },
        _ => refusal.error(),
    }
}
