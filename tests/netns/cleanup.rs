//! A lab that is stopped in the middle leaves nothing; one that is killed leaves nothing that the
//! next one does not remove.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use margay::lab::process::{self, Process};
use margay::lab::scope::{self, STATE};
use margay::lab::{requirements, scope::Scope};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

/// A running `margay lab` with its daemons up.
fn lab_in_the_middle() -> Process {
    let binary = crate::binary();
    let mut command = process::command(binary.to_str().unwrap(), &["lab"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let lab = Process::start(command).unwrap();
    let pid = lab.pid();
    process::wait_for("the lab to have both daemons", LIMIT, || {
        Ok((namespaces(pid).len() > 8 && daemons(pid).len() >= 2).then_some(()))
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    lab
}

fn names(directory: &str) -> Vec<String> {
    let Ok(list) = std::fs::read_dir(directory) else { return Vec::new() };
    list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn namespaces(pid: u32) -> Vec<String> {
    let prefix = format!("mgy-{pid}x");
    names("/run/netns").into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

fn states(pid: u32) -> Vec<String> {
    let prefix = format!("{pid}-");
    names(STATE).into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

/// Processes whose command line names the lab's state directory; those that only wait to be reaped
/// have none any more.
fn daemons(pid: u32) -> Vec<String> {
    let mark = format!("{STATE}/{pid}-");
    let names_it = |process: &String| {
        let command = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&mark)
    };
    names("/proc").into_iter().filter(names_it).collect()
}

fn left_of(pid: u32) -> [Vec<String>; 3] {
    [namespaces(pid), states(pid), daemons(pid)]
}

fn nothing() -> [Vec<String>; 3] {
    Default::default()
}

#[test]
fn after_ctrl_c_nothing_is_left() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut lab = lab_in_the_middle();
    let status = lab.end(Signal::SIGINT, LIMIT).unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(left_of(lab.pid()), nothing());
}

#[test]
fn after_a_kill_the_next_start_removes_what_is_left() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let mut lab = lab_in_the_middle();
    lab.kill();
    assert!(!namespaces(lab.pid()).is_empty(), "the lab was killed before it had any namespace");
    let next = Scope::new().unwrap();
    assert_eq!(left_of(lab.pid()), nothing());
    assert!(next.directory().exists());
}

#[test]
fn a_living_lab_is_left_alone() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let living = Scope::new().unwrap();
    let namespace = living.namespace("left-alone").unwrap();
    scope::remove_leftovers().unwrap();
    assert!(living.directory().exists() && namespace.path().exists());
    drop(living);
    assert!(!Path::new(&namespace.path()).exists());
}
