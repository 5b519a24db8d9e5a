//! The Unix socket: made so that nobody reaches it before its permissions are set, and removed
//! again.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

use crate::config::SocketPath;

/// Owner and group may read and write: that is, call.
const SOCKET_MODE: u32 = 0o660;
/// Everybody may find the socket in its folder; who may use it is up to its own mode.
const FOLDER_MODE: u32 = 0o755;
/// Starting takes an agent some milliseconds; whoever holds the lock for longer is none.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A socket that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// It would be taken away from a running agent.
    #[error("another agent listens on {}", .0.display())]
    InUse(PathBuf),
    /// Its folder stays locked.
    #[error("another agent has been starting in {} for {LOCK_PATIENCE:?}", .0.display())]
    Locked(PathBuf),
    /// Something else has the name.
    #[error("{} is there and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The name of a listening Unix socket, which goes when this does.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: another agent may have put its own socket in the place.
    identity: (u64, u64),
}

impl SocketFile {
    /// Makes the socket and listens on it. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// Fails where another agent listens, where the name belongs to something else, and where the
    /// system refuses.
    pub fn bind(
        socket: &SocketPath,
        group: Option<u32>,
    ) -> Result<(Self, UnixListener), SocketError> {
        let path = socket.as_path();
        // A socket's path has a parent: it is absolute and names a file.
        let folder = path.parent().unwrap_or(Path::new("/"));
        create_folder(folder)?;
        // Held to the end of this function: of two agents that start at once, the second one
        // waits here, and then finds that the first one listens.
        let _lock = lock(folder)?;
        check_free(path)?;
        let (identity, listener) = bind_and_move(path, folder, group)?;
        let file = Self {
            path: path.to_owned(),
            identity,
        };
        Ok((file, listener))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let still_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| identity(&metadata) == self.identity);
        if still_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Names the action and the path in an error of the system's.
fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SocketError + 'a {
    move |source| SocketError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn create_folder(folder: &Path) -> Result<(), SocketError> {
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(failed("create folder", folder))
}

fn lock(folder: &Path) -> Result<File, SocketError> {
    let file = File::open(folder).map_err(failed("open folder", folder))?;
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::WOULDBLOCK) => return Err(SocketError::Locked(folder.to_owned())),
            Err(errno) => return Err(failed("lock folder", folder)(errno.into())),
        }
    }
}

fn check_free(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match try_connect(path) {
        // The queue of a listener that does not keep up is full.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse(path.to_owned())),
        Err(Errno::CONNREFUSED) => {
            tracing::info!("replacing {}, on which nobody listens", path.display());
            Ok(())
        }
        Err(errno) => Err(failed("find out who listens on", path)(errno.into())),
    }
}

/// Without waiting for room in the listener's queue, as the standard library would.
fn try_connect(path: &Path) -> rustix::io::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)
}

/// Binds in a folder that only this user can enter, sets owner and mode, and only then moves the
/// socket to its place.
fn bind_and_move(
    path: &Path,
    folder: &Path,
    group: Option<u32>,
) -> Result<((u64, u64), UnixListener), SocketError> {
    let private = tempfile::Builder::new()
        .prefix(".agent-")
        .rand_bytes(4)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(folder)
        .map_err(failed("create a folder in", folder))?;
    let unfinished = private.path().join("s");
    let listener = UnixListener::bind(&unfinished).map_err(failed("listen on", path))?;
    fs::set_permissions(&unfinished, Permissions::from_mode(SOCKET_MODE))
        .map_err(failed("set the mode of", path))?;
    if group.is_some() {
        chown(&unfinished, None, group).map_err(failed("set the group of", path))?;
    }
    let metadata = fs::symlink_metadata(&unfinished).map_err(failed("look at", path))?;
    fs::rename(&unfinished, path).map_err(failed("replace", path))?;
    Ok((identity(&metadata), listener))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn bind(path: &Path) -> Result<(SocketFile, UnixListener), SocketError> {
        let socket = SocketPath::try_from(path.to_owned()).unwrap();
        SocketFile::bind(&socket, None)
    }

    #[tokio::test]
    async fn the_socket_has_its_mode_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("agent.sock");
        let (file, listener) = bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o7777, SOCKET_MODE);
        UnixStream::connect(&path).unwrap();
        listener.accept().await.unwrap();
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "the private folder is gone");
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_group_gets_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let socket = SocketPath::try_from(folder.path().join("agent.sock")).unwrap();
        // One of our own groups: the only kind that a user may give a file to.
        let gid = rustix::process::getegid().as_raw();
        let (_file, _listener) = SocketFile::bind(&socket, Some(gid)).unwrap();
        assert_eq!(fs::metadata(socket.as_path()).unwrap().gid(), gid);
    }

    #[tokio::test]
    async fn a_socket_in_use_stays_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let (first, listener) = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("another agent listens on {}", path.display())
        );
        UnixStream::connect(&path).unwrap();

        drop(listener);
        let (_second, _listener) = bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).expect("the first agent removed the second one's socket");
    }

    #[tokio::test]
    async fn a_listener_that_does_not_keep_up_is_still_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let (_file, _listener) = bind(&path).unwrap();
        // Connections that nobody accepted stay in the queue after their other end is closed.
        let queued = (0..10_000).take_while(|_| try_connect(&path) == Ok(()));
        assert!(queued.count() < 10_000, "the queue has no end");
        assert_eq!(try_connect(&path), Err(Errno::AGAIN));
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
    }

    #[tokio::test]
    async fn two_agents_do_not_start_in_one_folder_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let _other = lock(folder.path()).unwrap();
        let error = bind(&folder.path().join("agent.sock")).unwrap_err();
        assert!(matches!(error, SocketError::Locked(_)), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_a_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn errors_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = bind(&file.join("agent.sock")).unwrap_err().to_string();
        assert!(error.starts_with("cannot create folder "), "{error}");
        assert!(error.contains(file.to_str().unwrap()), "{error}");
    }
}
