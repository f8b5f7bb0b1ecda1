//! What the machine says to the host, and what the host knows from earlier lives of the machine.

use std::fs::{self, File};
use std::io::Write as _;
use std::sync::Mutex;

/// A name that is empty.
pub(crate) const NONE: &str = "-";
/// What our lines begin with; the kernel's do not.
const MARK: &str = "@ ";
/// The disk with what was said in earlier lives.
const TRANSCRIPT: &str = "/dev/vdb";

/// The serial console.
#[derive(Debug)]
pub(crate) struct Console(Mutex<File>);

impl Console {
    pub(crate) fn open() -> Self {
        Self(Mutex::new(File::options().write(true).open("/dev/ttyS0").unwrap()))
    }

    /// Says a line. It may not have left the machine yet.
    pub(crate) fn say(&self, line: &str) {
        let text = format!("{MARK}{}\n", line.replace('\n', " | "));
        self.0.lock().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Says a line, and waits until it has left the machine.
    pub(crate) fn say_now(&self, line: &str) {
        self.say(line);
        let file = self.0.lock().unwrap().try_clone().unwrap();
        rustix::termios::tcdrain(file).unwrap();
    }
}

/// What was said in earlier lives.
pub(crate) fn transcript() -> String {
    let bytes = fs::read(TRANSCRIPT).unwrap();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}
