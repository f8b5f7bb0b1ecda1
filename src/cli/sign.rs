//! Root hashes are signed by a command of the user's: keys are kept in many ways, and none of them is known here.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use erolith_differ::convert::Sign;
use erolith_verity::dmverity::{RootHash, Signature};

/// A line for `sh` that reads the digits of a root hash and writes a detached PKCS #7 signature of them in DER.
#[derive(Debug)]
pub(super) struct Signer(pub(super) String);

impl Sign for Signer {
    fn sign(&self, root: RootHash) -> io::Result<Signature> {
        let failed = |why: String| io::Error::other(format!("`{}`: {why}", self.0));
        let mut command = Command::new("sh");
        command.args(["-c", &self.0]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        // Dropped when written, so that the command sees the end.
        let written = child.stdin.take().map_or(Ok(()), |mut to| write!(to, "{root}"));
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(failed(output.status.to_string()));
        }
        // One that ends well without having read all of them has signed something else.
        written?;
        let what = "what it wrote is no PKCS #7 signature in DER";
        Signature::from_der(output.stdout).ok_or_else(|| failed(what.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_gets_the_digits_and_its_answer_is_judged() {
        let sign = |line: &str| Signer(line.to_owned()).sign(RootHash([0xAB; 32]));
        let signature = sign("printf 0; cat").unwrap();
        assert_eq!(signature.as_der(), format!("0{}", "ab".repeat(32)).as_bytes());
        for (line, word) in [("cat", "no PKCS #7"), ("cat >/dev/null; exit 3", "exit status: 3")] {
            let error = sign(line).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(line), "{error}");
        }
    }
}
