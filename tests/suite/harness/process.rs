//! A child process whose output can be waited for.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;

use super::Watched;

/// A running program. It is killed and reaped when this goes; what it wrote to stderr is shown
/// when the test fails.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    output: Arc<Watched<Output>>,
}

#[derive(Debug, Default)]
struct Output {
    /// What it has said so far, in the order in which it arrived.
    lines: Vec<(Stream, String)>,
    /// How many of the two streams are at their end.
    ended: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

impl Output {
    fn count(&self, text: &str) -> usize {
        let said =
            |(from, line): &&(Stream, String)| *from == Stream::Stderr && line.contains(text);
        self.lines.iter().filter(said).count()
    }

    fn text(&self, stream: Stream) -> String {
        let lines = self.lines.iter().filter(|(from, _)| *from == stream);
        lines
            .map(|(_, line)| line.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// How a program ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// All that it wrote to stdout.
    pub(crate) stdout: String,
    /// All that it wrote to stderr.
    pub(crate) stderr: String,
}

impl Process {
    /// Starts a program; `package` is the Debian package that has it. Its stdin is whatever the
    /// command says.
    pub(crate) fn start(command: &mut Command, package: &str) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("can't start {name}: {error}; it is in the Debian package {package}")
        });
        let output = Arc::<Watched<Output>>::default();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        follow(stdout, Stream::Stdout, &output);
        follow(stderr, Stream::Stderr, &output);
        Self {
            name,
            child,
            output,
        }
    }

    /// Waits for a line on stdout of which `find` makes something.
    pub(crate) fn stdout_line<R>(&self, what: &str, find: impl Fn(&str) -> Option<R>) -> R {
        self.line(what, &[Stream::Stdout], find)
    }

    /// Waits for a line on stderr of which `find` makes something.
    pub(crate) fn stderr_line<R>(&self, what: &str, find: impl Fn(&str) -> Option<R>) -> R {
        self.line(what, &[Stream::Stderr], find)
    }

    /// Waits for a line of which `find` makes something.
    pub(crate) fn any_line<R>(&self, what: &str, find: impl Fn(&str) -> Option<R>) -> R {
        self.line(what, &[Stream::Stdout, Stream::Stderr], find)
    }

    /// How many lines of its messages contain this text so far.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.output.lock().count(text)
    }

    /// The lines of its messages so far that contain this text.
    pub(crate) fn stderr_lines(&self, text: &str) -> Vec<String> {
        let output = self.output.lock();
        let is_meant =
            |(from, line): &&(Stream, String)| *from == Stream::Stderr && line.contains(text);
        let lines = output.lines.iter().filter(is_meant);
        lines.map(|(_, line)| line.clone()).collect()
    }

    /// Waits until more lines of its messages than that contain this text.
    pub(crate) fn says_more_often(&self, text: &str, than: usize) {
        let found = self
            .output
            .wait(|output| (output.count(text) > than).then_some(()));
        found.unwrap_or_else(|| panic!("{} does not say {text:?} again", self.name));
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, named as `kill` names it: `"TERM"`.
    pub(crate) fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        let sent = Command::new("sh").arg("-c").arg(kill).status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "{} is not running",
            self.name
        );
    }

    /// Ends its stdin, where that is a pipe.
    pub(crate) fn end_input(&mut self) {
        drop(self.child.stdin.take().expect("its stdin is a pipe"));
    }

    /// Waits until the program and whoever shares its output have ended.
    pub(crate) fn wait(&mut self) -> Ended {
        let ended = self.output.wait(|output| (output.ended == 2).then_some(()));
        ended.unwrap_or_else(|| panic!("{} does not end", self.name));
        let status = self.reap();
        let output = self.output.lock();
        Ended {
            code: status.code(),
            stdout: output.text(Stream::Stdout),
            stderr: output.text(Stream::Stderr),
        }
    }

    /// Waits until the program has ended, whoever shares its output.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.reap().code()
    }

    /// Ends the program with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is a child");
        self.reap();
    }

    fn reap(&mut self) -> ExitStatus {
        self.child.wait().expect("it is a child")
    }

    fn line<R>(&self, what: &str, streams: &[Stream], find: impl Fn(&str) -> Option<R>) -> R {
        let mut seen = 0;
        // Some(None): it has ended and there will be no more lines.
        let found = self.output.wait(|output| {
            let lines = output.lines.iter().skip(seen);
            let mut lines = lines.filter(|(from, _)| streams.contains(from));
            if let Some(found) = lines.find_map(|(_, line)| find(line)) {
                return Some(Some(found));
            }
            seen = output.lines.len();
            (output.ended == 2).then_some(None)
        });
        found
            .flatten()
            .unwrap_or_else(|| panic!("{} does not say {what}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!(
                "{} said:\n{}",
                self.name,
                self.output.lock().text(Stream::Stderr)
            );
        }
    }
}

fn follow(from: impl Read + Send + 'static, stream: Stream, output: &Arc<Watched<Output>>) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // An error ends it like the end: nothing more will come.
        while from
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            output.change(|output| output.lines.push((stream, text)));
            line.clear();
        }
        output.change(|output| output.ended += 1);
    });
}
