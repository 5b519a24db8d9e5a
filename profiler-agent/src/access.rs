//! Who may call the agent.
//!
//! On the Unix socket the kernel says who connected; on TCP the TLS handshake has already refused
//! everybody without a certificate of the right authority.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::{fmt, io};

use tokio::net::UnixStream;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// More groups than any user is in; the kernel's own limit is 65536 (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65536;

/// Who is at the other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A process on this host, by the Unix socket.
    Local(Caller),
    /// Another host, by TCP with mutual TLS.
    Remote(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(caller) => write!(f, "uid {} (pid {})", caller.uid, caller.pid),
            Self::Remote(address) => address.fmt(f),
        }
    }
}

/// A process that connected to the Unix socket, as it was at that moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Process id; 0 where it is in a PID namespace that the agent cannot see.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

impl Caller {
    /// Asks the kernel who connected.
    ///
    /// # Errors
    /// Fails where the kernel does not say.
    pub fn of(socket: &UnixStream) -> io::Result<Self> {
        let credentials = socket.peer_cred()?;
        Ok(Self {
            pid: credentials.pid().unwrap_or(0),
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: peer_groups(socket)?,
        })
    }

    fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// `SO_PEERGROUPS` (Linux 4.13), which neither the standard library nor rustix has.
fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let size = size_of_val(groups.as_slice());
        let mut bytes = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open for the length of the call, and the kernel writes at most
        // `bytes` bytes into `groups`, which are there and may hold any value.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel then says how many bytes it needs.
        let more = groups.len() < count && count <= MAX_GROUPS;
        if error.raw_os_error() != Some(libc::ERANGE) || !more {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// A group of users on this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its name, or its number where it was given as one.
    pub name: String,
    /// Its number.
    pub gid: u32,
}

impl Group {
    /// Finds a group in the text of `/etc/group`. A number need not be there: groups can come from
    /// elsewhere, such as a directory server.
    pub fn find(name: &str, groups: &str) -> Option<Self> {
        let listed = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
        });
        let gid = listed.or_else(|| name.parse().ok())?;
        Some(Self {
            name: name.to_owned(),
            gid,
        })
    }
}

/// Decides who may call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessPolicy {
    /// The user whom the agent runs as; may call.
    pub own_uid: u32,
    /// The group whose members may call, if any.
    pub group: Option<Group>,
}

/// A caller who may not call.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AccessDenied {
    /// There is a group to join.
    #[error("uid {uid} may not use the agent: only root and members of group `{group}` may")]
    NotInGroup {
        /// The caller's user id.
        uid: u32,
        /// The group's name.
        group: String,
    },
    /// There is none.
    #[error(
        "uid {uid} may not use the agent: only root may. Its administrator can let a group in, \
         with socket_group in /etc/profiler/agent.toml"
    )]
    NoGroup {
        /// The caller's user id.
        uid: u32,
    },
}

impl AccessPolicy {
    /// Root, the agent's own user and members of the group may call.
    ///
    /// # Errors
    /// Says whom the agent would let in instead.
    pub fn check(&self, caller: &Caller) -> Result<(), AccessDenied> {
        if caller.uid == 0 || caller.uid == self.own_uid {
            return Ok(());
        }
        let uid = caller.uid;
        match &self.group {
            Some(group) if caller.is_in(group.gid) => Ok(()),
            Some(group) => Err(AccessDenied::NotInGroup {
                uid,
                group: group.name.clone(),
            }),
            None => Err(AccessDenied::NoGroup { uid }),
        }
    }
}

/// Refuses every call, whatever the service, from those who may not call.
#[derive(Clone, Debug)]
pub struct Gate(Arc<AccessPolicy>);

impl Gate {
    /// A gate with this policy.
    pub fn new(policy: AccessPolicy) -> Self {
        Self(Arc::new(policy))
    }
}

impl Interceptor for Gate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match request.extensions().get::<Peer>() {
            Some(Peer::Remote(_)) => Ok(request),
            Some(Peer::Local(caller)) => match self.0.check(caller) {
                Ok(()) => Ok(request),
                Err(denied) => {
                    tracing::warn!(pid = caller.pid, "refused a call: {denied}");
                    Err(Status::permission_denied(denied.to_string()))
                }
            },
            None => Err(Status::permission_denied(
                "the agent cannot tell who is calling",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETC_GROUP: &str = "root:x:0:\nprofiler:x:990:ann,bob\nbroken\nodd:x:many:\n";

    fn caller(uid: u32, gid: u32, groups: &[u32]) -> Caller {
        Caller {
            pid: 12,
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    fn policy(group: Option<&str>) -> AccessPolicy {
        AccessPolicy {
            own_uid: 500,
            group: group.map(|name| Group::find(name, ETC_GROUP).unwrap()),
        }
    }

    #[test]
    fn who_may_call() {
        let cases = [
            ("root", caller(0, 0, &[]), true, true),
            ("the agent's own user", caller(500, 500, &[]), true, true),
            ("primary group", caller(1000, 990, &[]), false, true),
            (
                "one group of many",
                caller(1000, 1000, &[4, 990, 27]),
                false,
                true,
            ),
            ("other groups", caller(1000, 1000, &[4, 27]), false, false),
            ("no groups", caller(1000, 1000, &[]), false, false),
            ("root's group", caller(1000, 0, &[0]), false, false),
            ("uid like the gid", caller(990, 1000, &[]), false, false),
            ("nobody", caller(65534, 65534, &[]), false, false),
        ];
        for (who, caller, without_group, with_group) in cases {
            assert_eq!(policy(None).check(&caller).is_ok(), without_group, "{who}");
            let decision = policy(Some("profiler")).check(&caller);
            assert_eq!(decision.is_ok(), with_group, "{who}");
        }
    }

    #[test]
    fn the_refusal_says_which_group_to_join() {
        let stranger = caller(1000, 1000, &[]);
        let denied = policy(Some("profiler")).check(&stranger).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "uid 1000 may not use the agent: only root and members of group `profiler` may"
        );
        let denied = policy(None).check(&stranger).unwrap_err();
        assert!(denied.to_string().contains("socket_group"), "{denied}");
    }

    #[test]
    fn groups_are_found_by_name_and_number() {
        let gid = |name| Group::find(name, ETC_GROUP).map(|group| group.gid);
        assert_eq!(gid("profiler"), Some(990));
        assert_eq!(gid("990"), Some(990));
        assert_eq!(gid("70000"), Some(70000));
        for name in ["profile", "broken", "odd", "", "-1"] {
            assert_eq!(gid(name), None, "{name}");
        }
    }

    #[test]
    fn the_gate_refuses_whom_it_does_not_know() {
        let mut gate = Gate::new(policy(None));
        let mut call = |peer: Option<Peer>| {
            let mut request = Request::new(());
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            gate.call(request)
                .map(|_| ())
                .map_err(|status| status.code())
        };
        let denied = Err(tonic::Code::PermissionDenied);
        assert_eq!(call(None), denied);
        assert_eq!(call(Some(Peer::Local(caller(1000, 1000, &[])))), denied);
        assert_eq!(call(Some(Peer::Local(caller(0, 0, &[])))), Ok(()));
        let remote = Peer::Remote("192.0.2.1:7".parse().unwrap());
        assert_eq!(call(Some(remote)), Ok(()));
    }

    #[tokio::test]
    async fn the_kernel_says_who_connected() {
        let (one, _other) = UnixStream::pair().unwrap();
        let caller = Caller::of(&one).unwrap();
        assert_eq!(caller.pid, std::process::id() as i32);
        assert_eq!(caller.uid, rustix::process::geteuid().as_raw());
        assert_eq!(caller.gid, rustix::process::getegid().as_raw());
        let mut own: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .into_iter()
            .map(|gid| gid.as_raw())
            .collect();
        let mut seen = caller.groups;
        own.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, own);
    }
}
