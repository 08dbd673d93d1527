//! Ends a long system call of another thread, by a signal whose handler does nothing.
//!
//! The call must be one that answers `EINTR`. A signal that comes before the call has begun is
//! lost: whoever interrupts does so again until the thread says that it is done.

use std::io;

/// Nobody else's: programs that want to hear of urgent data are not here.
const SIGNAL: libc::c_int = libc::SIGURG;

extern "C" fn nothing(_signal: libc::c_int) {}

/// A thread that can be interrupted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interruptible {
    process: libc::c_long,
    thread: libc::c_long,
}

impl Interruptible {
    /// The calling thread. Gives the whole process a handler for SIGURG, which stays.
    pub(crate) fn current() -> io::Result<Interruptible> {
        let handler = nothing as extern "C" fn(libc::c_int);
        // SAFETY: all zeros are a valid sigaction: no flags, an empty mask, the default handler.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        // SAFETY: both pointers are null or borrowed for the call; the handler touches nothing, so
        // it may run at any instruction.
        let result = unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: no pointer is passed.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        Ok(Interruptible { process: std::process::id() as libc::c_long, thread })
    }

    /// Ends the system call that the thread is in, if any.
    pub(crate) fn interrupt(self) {
        // SAFETY: no pointer is passed. A thread that has ended meanwhile gives ESRCH, or the
        // signal does nothing to another one of this process.
        let _ = unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, SIGNAL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn a_thread_that_waits_goes_on() {
        let (told, done) = (std::sync::mpsc::channel(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                told.0.send(Interruptible::current().unwrap()).unwrap();
                // SAFETY: no pointer is passed; the limit of an hour is never reached.
                let result = unsafe { libc::poll(std::ptr::null_mut(), 0, 3_600_000) };
                let error = io::Error::last_os_error();
                done.store(true, Ordering::Relaxed);
                (result, error.raw_os_error())
            });
            let thread = told.1.recv().unwrap();
            while !done.load(Ordering::Relaxed) {
                thread.interrupt();
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(waiting.join().unwrap(), (-1, Some(libc::EINTR)));
        });
    }
}
