/** An internet of documentation addresses (RFC 5737) in a network namespace: one server out there, one on the host. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';

export interface World {
  /** An address of the internet; port 8080 answers HTTP, a path that is in /usr/share/doc with 200. */
  readonly address: string;
  /** An address of the host on that internet; port 8080 answers HTTP there too. */
  readonly host: string;
  close(): Promise<void>;
}

const PORT = '8080';

export async function openWorld(): Promise<World> {
  // A quarter-kilobyte of addresses, four each: several runs on one host rarely meet.
  const first = (process.pid % 63) * 4;
  const address = `203.0.113.${first + 1}`;
  const host = `203.0.113.${first + 2}`;
  const name = `cpw${process.pid}`.slice(0, 14);
  const ip = (...args: string[]): void => void execFileSync('ip', args);
  ip('netns', 'add', name);
  const undo: (() => void)[] = [() => ip('netns', 'del', name)];
  try {
    ip('link', 'add', name, 'type', 'veth', 'peer', 'name', 'world', 'netns', name);
    undo.push(() => ip('link', 'del', name));
    ip('addr', 'add', `${host}/30`, 'dev', name);
    ip('link', 'set', name, 'up');
    ip('-n', name, 'addr', 'add', `${address}/30`, 'dev', 'world');
    ip('-n', name, 'link', 'set', 'world', 'up');
    ip('-n', name, 'link', 'set', 'lo', 'up');
    const page = ['-m', 'http.server', PORT, '--bind', address, '--directory', '/usr/share/doc'];
    const server = spawn('ip', ['netns', 'exec', name, '/usr/bin/python3', ...page], { stdio: 'ignore' });
    undo.push(() => server.kill());
    const onHost = createServer((_request, response) => response.end('the host')).listen(Number(PORT), host);
    await once(onHost, 'listening');
    undo.push(() => {
      onHost.close();
      onHost.closeAllConnections();
    });
  } catch (error) {
    for (const step of undo.reverse()) step();
    throw error;
  }
  return {
    address,
    host,
    close: async () => {
      for (const step of undo.reverse()) step();
    },
  };
}
