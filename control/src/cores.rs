//! Which cores the control side's threads run on: those that no worker is pinned to.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Takes the calling thread, and those that it starts from now on, off the workers' cores. Where
/// no other core is left it stays.
pub(crate) fn leave(workers: &[Option<usize>]) -> nix::Result<()> {
    let this = Pid::from_raw(0);
    let mut rest = sched_getaffinity(this)?;
    for core in workers.iter().flatten() {
        // A core that no machine has is none of ours either.
        let _ = rest.unset(*core);
    }
    let is_left = (0..CpuSet::count()).any(|core| rest.is_set(core) == Ok(true));
    if is_left { sched_setaffinity(this, &rest) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores() -> Vec<usize> {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count()).filter(|core| set.is_set(*core) == Ok(true)).collect()
    }

    #[test]
    fn the_workers_cores_are_left_unless_there_are_no_others() {
        let thread = std::thread::spawn(|| {
            let before = cores();
            let all: Vec<_> = before.iter().map(|core| Some(*core)).collect();
            leave(&all).unwrap();
            assert_eq!(cores(), before);
            leave(&[None, Some(usize::MAX)]).unwrap();
            assert_eq!(cores(), before);
            if before.len() < 2 {
                println!("SKIPPED: needs two cores");
                return;
            }
            leave(&[None, Some(before[1])]).unwrap();
            assert_eq!(cores(), [&before[..1], &before[2..]].concat());
            let inherited = std::thread::spawn(cores).join().unwrap();
            assert!(!inherited.contains(&before[1]));
        });
        thread.join().unwrap();
    }
}
