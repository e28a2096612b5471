//! Another network namespace: a thread that lives in it and runs what it is given.
//!
//! Sockets that are made there stay there. The namespace goes away with the value.

use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

use crate::sandbox::run;

type Task = Box<dyn FnOnce() + Send>;

pub(crate) struct Space {
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's ID, by which `ip link … netns` finds the namespace.
    tid: i32,
}

impl Space {
    pub(crate) fn new() -> Self {
        let (tasks, inbox) = channel::<Task>();
        let (ready, wait) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            ready.send(nix::unistd::gettid().as_raw()).expect("the test waits");
            for task in inbox {
                task();
            }
        });
        let tid = wait.recv().expect("the thread is ready");
        let space = Self { tasks: Some(tasks), thread: Some(thread), tid };
        space.ip("link set lo up");
        space
    }

    /// Runs a closure in the namespace.
    pub(crate) fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, wait) = channel();
        let task: Task = Box::new(move || drop(answer.send(work())));
        self.tasks.as_ref().expect("alive").send(task).expect("the thread lives");
        wait.recv().expect("the work did not panic")
    }

    /// Runs `ip …` there.
    pub(crate) fn ip(&self, line: &str) -> String {
        let line = format!("ip {line}");
        self.enter(move || String::from_utf8_lossy(&run(&line).stdout).into_owned())
    }

    /// Moves a link of the calling thread's namespace into this one.
    pub(crate) fn adopt(&self, link: &str) {
        run(&format!("ip link set {link} netns {}", self.tid));
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("work in a namespace panicked");
        }
    }
}
