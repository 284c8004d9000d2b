import assert from 'node:assert/strict';
import { ask, python, say } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

/** Each line that it prints is a check that failed. */
const POSIX = `
import os, socket, mmap, fcntl, stat, tempfile, time
os.chdir(tempfile.mkdtemp(dir=os.path.expanduser('~')))
def check(name, truth):
    if not truth: print(name)
open('f', 'w').write('x' * 10)
os.link('f', 'hard'); check('hard link', os.stat('hard').st_nlink == 2)
os.symlink('f', 'soft'); check('symbolic link', os.readlink('soft') == 'f')
os.chmod('f', 0o4711); check('mode', stat.S_IMODE(os.stat('f').st_mode) == 0o4711)
os.utime('f', (1, 2)); check('times', os.stat('f').st_mtime == 2)
os.setxattr('f', 'user.mine', b'v'); check('attributes', os.getxattr('f', 'user.mine') == b'v')
os.rename('f', 'g'); check('rename', os.path.exists('g') and not os.path.exists('f'))
os.mkdir('d1'); os.mkdir('d2'); open('d1/in', 'w').close(); os.rename('d1', 'd2'); check('rename of a folder over one', os.path.exists('d2/in'))
with open('sparse', 'wb') as f: f.seek(1 << 30); f.write(b'e')
check('sparse file', os.stat('sparse').st_size == (1 << 30) + 1 and os.stat('sparse').st_blocks < 2048)
os.unlink('sparse')
os.mkfifo('pipe')
if os.fork() == 0:
    with open('pipe', 'w') as f: f.write('through')
    os._exit(0)
check('named pipe', open('pipe').read() == 'through'); os.wait()
server = socket.socket(socket.AF_UNIX); server.bind('sock'); server.listen()
client = socket.socket(socket.AF_UNIX); client.connect('sock'); client.send(b'hi')
check('unix socket', server.accept()[0].recv(2) == b'hi')
with open('map', 'w+b') as f:
    f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[0:2] = b'ok'; m.flush()
    check('shared mapping', open('map', 'rb').read(2) == b'ok')
a = open('lock', 'w'); b = open('lock', 'w'); fcntl.flock(a, fcntl.LOCK_EX)
try: fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB); print('lock')
except BlockingIOError: pass
check('long name', open('n' * 255, 'w') is not None)
check('open of what is in the template, and its change', os.access('/usr/share', os.R_OK))
from multiprocessing import Process, Queue, Lock
q = Queue(); lock = Lock()
p = Process(target=lambda: q.put('from a child')); p.start(); check('processes and semaphores', q.get(timeout=60) == 'from a child'); p.join()
import select
ep = select.epoll(); r, w = os.pipe(); ep.register(r, select.EPOLLIN); os.write(w, b'.'); check('epoll', len(ep.poll(5)) == 1)
import threading
done = []; threads = [threading.Thread(target=lambda: done.append(1)) for _ in range(50)]
[t.start() for t in threads]; [t.join() for t in threads]; check('threads', len(done) == 50)
soft, hard = __import__('resource').getrlimit(__import__('resource').RLIMIT_NOFILE); check('open files', soft >= 1024 and hard >= 4096)
print('done')
`;

export default [
  {
    name: 'what programs expect of a Linux: links, pipes, sockets, locks, attributes, mappings, processes, threads',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const run = await python(sandbox, POSIX);
      assert.deepEqual([run.stdout, run.stderr], ['done\n', '']);
    },
  },
  {
    name: 'devices, /proc, /dev/shm and the temporary folders are as everywhere',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const answer = await say(
        sandbox,
        [
          'echo x > /dev/null; head -c 4 /dev/zero | od -An -tx1 | tr -d " "; head -c 16 /dev/urandom | wc -c',
          'echo piped | cat /dev/stdin; (echo y > /dev/full) 2>/dev/null || echo full',
          'ls -d /dev/pts/ptmx /dev/ptmx /dev/tty /dev/fd | wc -l; stat -c %a /tmp /dev/shm | sort -u',
          'echo z > /dev/shm/z && cat /dev/shm/z; cat /proc/self/comm; cat <(echo substituted)',
          'test -r /proc/cpuinfo && test -r /proc/meminfo && test -r /proc/net/dev && test -d /sys && echo readable',
        ].join('; '),
      );
      assert.equal(answer, '00000000\n16\npiped\nfull\n4\n1777\nz\ncat\nsubstituted\nreadable');
    },
  },
  {
    name: 'root inside changes the system: files of the template, packages’ places, services’ ports',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      await say(
        sandbox,
        'sudo rm /usr/bin/nano && sudo sh -c "echo changed >> /etc/bash.bashrc" && sudo mkdir -p /opt/x/y',
      );
      assert.equal(
        await say(sandbox, 'ls /usr/bin/nano 2>&1 || true; tail -1 /etc/bash.bashrc; ls /opt/x'),
        ["ls: cannot access '/usr/bin/nano': No such file or directory", 'changed', 'y'].join('\n'),
      );
      await say(sandbox, 'sudo mv /usr/share/doc /usr/share/doc-moved && ls /usr/share/doc-moved | head -1');
      const low = 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 80)); s.listen(); print("bound")';
      assert.equal(await say(sandbox, `sudo python3 -c '${low}'`), 'bound');
      await say(sandbox, 'sudo dpkg-query -W bash >/dev/null');
      const other = await create();
      assert.equal(await say(other, 'ls /usr/bin/nano /usr/share/doc -d; ls /opt'), '/usr/bin/nano\n/usr/share/doc');
    },
  },
  {
    name: 'git: a repository, a commit, a clone',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const line =
        'git init -q r && cd r && git config user.email a@b && git config user.name n && echo 1 > f && git add f && git commit -qm first && git clone -q . ../c && git -C ../c log --format=%s';
      assert.equal(await say(sandbox, line), 'first');
    },
  },
  {
    name: 'root mounts a file system',
    on: {
      jail: {
        reason: 'its kernel is the host’s: no mounts from inside',
        refused: async ({ sandbox: create }) => {
          const sandbox = await create();
          const run = await ask(sandbox, 'sudo mount -t tmpfs none /mnt');
          assert.notEqual(run.exitCode, 0);
          assert.match(run.stderr, /denied|permitted|must be superuser/);
        },
      },
    },
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      assert.equal(
        await say(sandbox, 'sudo mount -t tmpfs none /mnt && findmnt -no FSTYPE /mnt && sudo umount /mnt'),
        'tmpfs',
      );
    },
  },
  {
    name: 'root makes a device node and sets the clock',
    on: {
      jail: {
        reason: 'devices and the clock are the host’s',
        refused: async ({ sandbox: create }) => {
          const sandbox = await create();
          const before = Date.now();
          for (const line of [
            'sudo mknod /tmp/disk b 254 0',
            "sudo date -s '2001-01-01'",
            'sudo cat /dev/mem /dev/kmsg',
          ])
            assert.notEqual((await ask(sandbox, line)).exitCode, 0, line);
          assert.ok(Date.now() - before < 600_000, 'the host’s clock is as it was');
        },
      },
    },
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      assert.equal(await say(sandbox, 'sudo mknod /tmp/zero c 1 5 && head -c 2 /tmp/zero | od -An -tx1'), ' 00 00');
      assert.match(await say(sandbox, "sudo date -s '2001-02-03 04:05:06' >/dev/null; date"), /2001/);
    },
  },
] satisfies Behaviour[];
