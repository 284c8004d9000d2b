/**
 * What a jail may ask of the host's kernel. A name that stands nowhere here, and a number that has no name yet, gets
 * ENOSYS: a new kernel opens nothing by itself, and programs take their older way.
 *
 * Refused is what the default profile of containers-common refuses, and of what it allows: namespaces (with a user
 * namespace of his own a caller is root before the kernel's least tested code), the mount interface, keyrings (they are
 * the user's, not the jail's), socket families and protocols beyond the everyday ones (asking for one makes the kernel
 * load its module). Allowed beyond it: newer calls that do what allowed ones do. ptrace and process_vm_* reach only the
 * jail's own processes, and since Linux 4.8 a traced process stays under its filter.
 */

/** Linux errnos, the same on both architectures. */
const ERRNO = {
  EPERM: 1,
  ENOSYS: 38,
  EPROTONOSUPPORT: 93,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
} as const;

/** Zero: the call is let through. Else the errno that it gets. */
export type Verdict = 0 | (typeof ERRNO)[keyof typeof ERRNO];

/**
 * Holds when the low 32 bits of argument `arg` (0 to 5) and `mask` (default: all) are one of `is`. Of the arguments
 * looked at here the kernel itself uses the low 32 bits only, so a test of all 64 could be walked around.
 */
export interface ArgumentTest {
  readonly arg: number;
  readonly mask?: number;
  readonly is: readonly number[];
}

/** The first case whose tests all hold decides; none: `otherwise`. An argument is tested once a case. */
export interface Conditions {
  readonly cases: readonly { readonly when: readonly ArgumentTest[]; readonly gives: Verdict }[];
  readonly otherwise: Verdict;
}

const names = (text: string): readonly string[] => text.trim().split(/\s+/);

/** Calls that are let through whatever their arguments. */
const ALLOWED = names(`
  accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chroot
  clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2
  dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat
  exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl
  fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue
  futex_wait futex_waitv futex_wake futimesat get_mempolicy get_robust_list getcpu getcwd getdents getdents64
  getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
  getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
  getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
  io_setup io_submit ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
  lchown lgetxattr link linkat listen listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise
  map_shadow_stack mbind membarrier memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap
  mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv
  msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_getfd pidfd_open
  pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64
  process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead
  readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat
  renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
  rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
  sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr
  sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg
  sendmsg sendto set_mempolicy set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid
  setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat
  shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat sync
  sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
  timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat
  uprobe uretprobe utime utimensat utimes vfork wait4 waitid write writev
`);

/** EPERM: a program that asks for one of these is told that it may not. */
const FORBIDDEN = names(`
  acct add_key bpf clock_settime create_module delete_module fanotify_init fanotify_mark finit_module fsconfig fsmount
  fsopen fspick get_kernel_syms init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie
  migrate_pages mount mount_setattr move_mount move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree
  open_tree_attr perf_event_open pivot_root process_madvise query_module quotactl quotactl_fd reboot request_key
  setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog umount2 uselib userfaultfd ustat vhangup
  vmsplice
`);

/** Of include/uapi/linux/sched.h. CLONE_NEWTIME lies among the bits that clone reads as a signal, so only unshare has it. */
const CLONE_NEW_ANY = 0x7e020000;
const CLONE_NEWTIME = 0x80;

/** Of include/linux/socket.h, net.h, and include/uapi/linux/{in,netlink}.h. */
const AF = { unix: 1, inet: 2, inet6: 10, netlink: 16 };
const SOCK_TYPE_MASK = 0xf;
const SOCK = { stream: 1, datagram: 2, raw: 3 };
const IPPROTO = { ip: 0, icmp: 1, tcp: 6, udp: 17, icmpv6: 58 };
const NETLINK = { route: 0, sockDiag: 4, kobjectUevent: 15 };

/** Of include/uapi/asm-generic/ioctls.h: to type on another's terminal, and to load a line discipline. */
const TIOCSTI = 0x5412;
const TIOCLINUX = 0x541c;
const TIOCSETD = 0x5423;

/** Of include/uapi/linux/personality.h. ADDR_NO_RANDOMIZE is asked for by gdb and by race detectors, of themselves. */
const PERSONALITIES = [0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xffffffff];

const CONDITIONAL: Readonly<Record<string, Conditions>> = {
  clone: { cases: [{ when: [{ arg: 0, mask: CLONE_NEW_ANY, is: [0] }], gives: 0 }], otherwise: ERRNO.EPERM },
  unshare: {
    cases: [{ when: [{ arg: 0, mask: CLONE_NEW_ANY + CLONE_NEWTIME, is: [0] }], gives: 0 }],
    otherwise: ERRNO.EPERM,
  },
  ioctl: { cases: [{ when: [{ arg: 1, is: [TIOCSTI, TIOCLINUX, TIOCSETD] }], gives: ERRNO.EPERM }], otherwise: 0 },
  personality: { cases: [{ when: [{ arg: 0, is: PERSONALITIES }], gives: 0 }], otherwise: ERRNO.EPERM },
  socketpair: { cases: [{ when: [{ arg: 0, is: [AF.unix] }], gives: 0 }], otherwise: ERRNO.EOPNOTSUPP },
  socket: {
    cases: [
      { when: [{ arg: 0, is: [AF.unix] }], gives: 0 },
      {
        when: [
          { arg: 0, is: [AF.inet, AF.inet6] },
          { arg: 1, mask: SOCK_TYPE_MASK, is: [SOCK.stream] },
          { arg: 2, is: [IPPROTO.ip, IPPROTO.tcp] },
        ],
        gives: 0,
      },
      {
        when: [
          { arg: 0, is: [AF.inet, AF.inet6] },
          { arg: 1, mask: SOCK_TYPE_MASK, is: [SOCK.datagram] },
          { arg: 2, is: [IPPROTO.ip, IPPROTO.udp, IPPROTO.icmp, IPPROTO.icmpv6] },
        ],
        gives: 0,
      },
      // Any protocol: it is a header field, no protocol's code is behind it.
      {
        when: [
          { arg: 0, is: [AF.inet, AF.inet6] },
          { arg: 1, mask: SOCK_TYPE_MASK, is: [SOCK.raw] },
        ],
        gives: 0,
      },
      { when: [{ arg: 0, is: [AF.inet, AF.inet6] }], gives: ERRNO.EPROTONOSUPPORT },
      {
        when: [
          { arg: 0, is: [AF.netlink] },
          { arg: 2, is: [NETLINK.route, NETLINK.sockDiag, NETLINK.kobjectUevent] },
        ],
        gives: 0,
      },
      { when: [{ arg: 0, is: [AF.netlink] }], gives: ERRNO.EPROTONOSUPPORT },
    ],
    otherwise: ERRNO.EAFNOSUPPORT,
  },
};

/**
 * The rule of every call that has one. What has none gets ENOSYS, by design among others: clone3 (its flags lie in memory,
 * where no filter can read them; libc then uses clone), io_uring (its work passes no filter), memfd_secret, modify_ldt.
 */
export const RULES: ReadonlyMap<string, Verdict | Conditions> = new Map<string, Verdict | Conditions>([
  ...ALLOWED.map((name): [string, Verdict] => [name, 0]),
  ...FORBIDDEN.map((name): [string, Verdict] => [name, ERRNO.EPERM]),
  ...Object.entries(CONDITIONAL),
]);

/** What a call without a rule gets, and a call of another architecture or its x32 form. */
export const UNRULED: Verdict = ERRNO.ENOSYS;

/** What the rules say to one call; `args` are the low 32 bits of its arguments. */
export function verdict(rule: Verdict | Conditions | undefined, args: readonly number[]): Verdict {
  if (rule === undefined) return UNRULED;
  if (typeof rule === 'number') return rule;
  const holds = (test: ArgumentTest): boolean =>
    test.is.includes(((args[test.arg] ?? 0) & (test.mask ?? 0xffffffff)) >>> 0);
  return rule.cases.find((one) => one.when.every(holds))?.gives ?? rule.otherwise;
}
