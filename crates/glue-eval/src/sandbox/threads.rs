//! How many threads a program may have: whoever watches it is asked before each.
//!
//! The kernel has no limit on threads that holds for one process of any user: `RLIMIT_NPROC` counts all processes of a
//! user, and nothing is refused to root. So `clone` is left to a listener (seccomp user notification, since Linux 5.5):
//! the kernel holds the calling thread up until the parent, which counts the threads that there are, answers whether
//! the call goes on.

use super::process::Process;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The instructions of a filter.
type Program = [libc::sock_filter; 4];

/// `action` for `clone`, and nothing for other calls; which kinds of `clone` there are at all is for another filter to
/// say, whose refusal precedes.
fn on_clone(action: u32) -> Program {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        // The number of the call is the first field of what a filter looks at.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_clone as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// The side of the child, which asks.
pub(super) struct Asking {
    ask: Program,
    refuse: Program,
}

impl Asking {
    pub(super) fn new() -> Asking {
        Asking {
            ask: on_clone(libc::SECCOMP_RET_USER_NOTIF),
            refuse: on_clone(libc::SECCOMP_RET_ERRNO | libc::EAGAIN as u32),
        }
    }

    /// From here on each new thread of the calling process is asked for, and the descriptor to answer by is sent over
    /// standard input. Where the kernel cannot ask, or a container asks already, there are no new threads.
    /// Async-signal-safe.
    #[allow(unsafe_code)]
    pub(super) fn begin(&self) -> io::Result<()> {
        let install = |program: &Program, flags: libc::c_ulong| {
            let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
            // SAFETY: the kernel copies the instructions, as many as `len` says, and does not write to them.
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program) }
        };
        let listener = install(&self.ask, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) as libc::c_int;
        if listener < 0 {
            return if install(&self.refuse, 0) < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        }
        let sent = send(libc::STDIN_FILENO, listener);
        // SAFETY: the descriptor was made above, and nobody else knows of it.
        unsafe { libc::close(listener) };
        sent
    }
}

/// Calls `act` with a message of one byte and room for one descriptor. Async-signal-safe, if `act` is.
#[allow(unsafe_code)]
fn with_message<T>(act: impl FnOnce(&mut libc::msghdr) -> T) -> T {
    let mut byte = 0_u8;
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = [0_u64; 8];
    // SAFETY: all-zero bytes are a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: a computation.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as _;
    act(&mut message)
}

/// Sends a descriptor with one byte. Async-signal-safe.
#[allow(unsafe_code)]
fn send(socket: libc::c_int, descriptor: libc::c_int) -> io::Result<()> {
    // SAFETY: the message points to memory that lives through the call, which is aligned for a header and longer than
    // one with a descriptor, whose place the macros compute.
    with_message(|message| unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<libc::c_int>() as u32) as _;
        libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(descriptor);
        if libc::sendmsg(socket, message, 0) == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
    })
}

/// The descriptor that was sent so, if anything was.
#[allow(unsafe_code)]
fn receive(socket: libc::c_int) -> io::Result<Option<OwnedFd>> {
    // SAFETY: as above. The kernel writes no more than there is room for and says how much; a header that it wrote, of
    // the kind that carries descriptors, is followed by at least one, which is new and has no other owner.
    with_message(|message| unsafe {
        if libc::recvmsg(socket, message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        let header = libc::CMSG_FIRSTHDR(message);
        if header.is_null() || (*header).cmsg_level != libc::SOL_SOCKET || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Ok(None);
        }
        Ok(Some(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned())))
    })
}

/// The side of the parent, which answers.
pub(super) struct Listener {
    descriptor: OwnedFd,
}

impl Listener {
    /// What the child sent over the other end of `channel` before it became the program; `None` if that has no new
    /// threads.
    ///
    /// # Errors
    /// If the channel cannot be read.
    pub(super) fn receive(channel: &UnixStream) -> io::Result<Option<Listener>> {
        Ok(receive(channel.as_raw_fd())?.map(|descriptor| Listener { descriptor }))
    }

    /// Answers one question that waits: yes, if `process` has fewer threads than `most`. As several can be asked for at
    /// a time, there may be twice as many for a moment.
    #[allow(unsafe_code)]
    pub(super) fn answer(&self, process: &Process, most: u64) {
        let descriptor = self.descriptor.as_raw_fd();
        // SAFETY: all-zero bytes are a value of this structure of numbers, and what the kernel wants to be given.
        let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a local variable of the type that the request is for.
        if unsafe { libc::ioctl(descriptor, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut request) } != 0 {
            // A signal ended the call meanwhile.
            return;
        }
        let respond = |error: i32, flags: u32| {
            let mut response = libc::seccomp_notif_resp { id: request.id, val: 0, error, flags };
            // SAFETY: as above. That the call has ended meanwhile is no matter.
            unsafe { libc::ioctl(descriptor, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response) }
        };
        let has_room = process.threads().is_some_and(|threads| threads < most);
        // Before Linux 5.5 a call cannot be let go on.
        let unable = |sent: i32| sent != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL);
        if !has_room || unable(respond(0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)) {
            respond(-libc::EAGAIN, 0);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
