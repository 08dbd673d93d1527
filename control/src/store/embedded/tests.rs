use super::*;
use crate::scratch;
use crate::store::tests::contract::{self, document, key, node};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_keeps_the_contract() {
    for contract in 0..3 {
        let scratch = scratch::Directory::new("embedded");
        let store = Embedded::new(scratch.path().join("inner"));
        match contract {
            0 => contract::reads_and_writes(&store).await,
            1 => contract::keeps_every_kind(&store).await,
            _ => {
                std::fs::create_dir(scratch.path().join("inner")).unwrap();
                contract::tells_of_changes(&store).await;
            }
        }
    }
}

#[tokio::test]
async fn a_write_leaves_the_rest_of_a_file_alone() {
    let scratch = scratch::Directory::new("embedded");
    let text = "# pools of the house\nkind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.0.0.0/8}\n\
                --- # second\n# why\nkind: Node\nmetadata: {name: a}\nspec: {odd: 1}\n---\n\
                kind: Tier\nmetadata: {name: t}\n";
    let file = scratch.write("all.yaml", text);
    let store = Embedded::new(scratch.path());
    let mut a = store.get(&key("Node", "a")).await.unwrap();
    a.value["spec"]["more"] = json!(true);
    let a = store.update(a).await.unwrap();
    let now = std::fs::read_to_string(&file).unwrap();
    let expected = text.find("kind: Node").unwrap();
    assert!(now.starts_with(&text[..expected]), "{now}");
    assert!(now.ends_with("---\nkind: Tier\nmetadata: {name: t}\n"), "{now}");
    assert_eq!(store.get(&a.key).await.unwrap(), a);
    store.delete(&a).await.unwrap();
    let now = std::fs::read_to_string(&file).unwrap();
    let expected = text.find("--- # second").unwrap();
    assert_eq!(now, format!("{}---\nkind: Tier\nmetadata: {{name: t}}\n", &text[..expected]));
    let pool = store.get(&key("IPPool", "p")).await.unwrap();
    store.delete(&pool).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kind: Tier\nmetadata: {name: t}\n");
    let tier = store.get(&key("Tier", "t")).await.unwrap();
    store.delete(&tier).await.unwrap();
    assert!(!file.exists());
}

#[tokio::test]
async fn items_of_lists_are_written_one_by_one() {
    let scratch = scratch::Directory::new("embedded");
    let list = json!({"kind": "List", "apiVersion": "v1",
        "items": [node("a", "10.0.0.1/24"), node("b", "10.0.0.2/24")]});
    let file = scratch.write("list.json", &list.to_string());
    let store = Embedded::new(scratch.path());
    let mut b = store.get(&key("Node", "b")).await.unwrap();
    b.value["spec"]["bgp"]["ipv4Address"] = json!("10.0.0.3/24");
    store.update(b).await.unwrap();
    let a = store.get(&key("Node", "a")).await.unwrap();
    assert_eq!(a.value, *node("a", "10.0.0.1/24").as_object().unwrap());
    store.delete(&a).await.unwrap();
    let b = store.get(&key("Node", "b")).await.unwrap();
    assert_eq!(b.value["spec"]["bgp"]["ipv4Address"], "10.0.0.3/24");
    store.delete(&b).await.unwrap();
    assert!(!file.exists());
}

/// Names, labels and numbers that YAML reads as something else unless they are quoted.
#[tokio::test]
async fn values_that_look_like_others_come_back_as_they_were() {
    let scratch = scratch::Directory::new("embedded");
    let store = Embedded::new(scratch.path());
    let odd = json!([
        "yes",
        "no",
        "1",
        "1.10",
        "null",
        "~",
        "0x10",
        "---",
        "# x",
        "a: b",
        " pad ",
        "line\nbreak",
        "1e3",
        "2026-01-05",
        true,
        1.0,
        12345678901234567890_u64,
        null,
        {},
        [],
        ""
    ]);
    let spec = json!({"odd": odd});
    let value = json!({"kind": "Profile", "metadata": {"name": "kns.default"}, "spec": spec});
    let written = store.create(document(value)).await.unwrap();
    assert_eq!(store.get(&written.key).await.unwrap(), written);
}

#[test]
fn two_writers_take_turns() {
    let scratch = scratch::Directory::new("embedded");
    let store = Embedded::new(scratch.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let counter = json!({"kind": "Tier", "metadata": {"name": "t"}, "spec": {"order": 0}});
    runtime.block_on(store.create(document(counter))).unwrap();
    let count = |store: Embedded| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for _ in 0..20 {
                loop {
                    let mut read = store.get(&key("Tier", "t")).await.unwrap();
                    let order = read.value["spec"]["order"].as_u64().unwrap();
                    read.value["spec"]["order"] = json!(order + 1);
                    match store.update(read).await {
                        Ok(_) => break,
                        Err(error) => assert!(matches!(error, StoreError::Conflict(_)), "{error}"),
                    }
                }
            }
        });
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let store = store.clone();
            scope.spawn(move || count(store));
        }
    });
    let read = runtime.block_on(store.get(&key("Tier", "t"))).unwrap();
    assert_eq!(read.value["spec"]["order"], 40);
}
