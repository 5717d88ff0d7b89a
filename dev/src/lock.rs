//! A file lock that tells who holds it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::Pid;

/// Held until the process ends or drops it. A POSIX record lock, since the kernel names the holder of such a one: a
/// pid in a file may be of a process that ended long ago.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`; none when another process holds it.
    pub fn take(path: &Path) -> Result<Option<Lock>> {
        let file = open(path)?;
        match fcntl(file.as_fd(), FcntlArg::F_SETLK(&whole_file())) {
            Ok(_) => Ok(Some(Lock { _file: file })),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("locking {}", path.display())),
        }
    }

    /// The process that holds the lock at `path`. Not for the holder itself, who would lose the lock by asking.
    pub fn holder(path: &Path) -> Result<Option<Pid>> {
        let file = open(path)?;
        let mut lock = whole_file();
        fcntl(file.as_fd(), FcntlArg::F_GETLK(&mut lock))
            .with_context(|| format!("asking who holds {}", path.display()))?;
        Ok((i32::from(lock.l_type) != libc::F_UNLCK).then(|| Pid::from_raw(lock.l_pid)))
    }
}

fn open(path: &Path) -> Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
    file.with_context(|| format!("opening {}", path.display()))
}

/// Start and length 0: all of the file, whatever its length.
fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_nobody_holds_has_no_holder_and_can_be_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert_eq!(Lock::holder(&path).unwrap(), None);
        assert!(Lock::take(&path).unwrap().is_some());
    }
}
