/** The files between this runtime and the bridge (coppice_bridge/runtime.py): events out, requests in. */
import fs from 'node:fs';
import net from 'node:net';

const [REQUESTS, EVENTS, PAYLOAD, INTERRUPTS] = [3, 4, 5, 6] as const;

export type Event =
  | { readonly type: 'ready'; readonly lines: Readonly<Record<string, string>> }
  | { readonly type: 'done'; readonly run?: string }
  | { readonly type: 'stdout' | 'stderr'; readonly text: string }
  | { readonly type: 'result'; readonly main: boolean; readonly data: Readonly<Record<string, unknown>> }
  | { readonly type: 'error'; readonly name: string; readonly value: string; readonly traceback: string };

/** Written when this returns: the pipe blocks, so output waits for its reader. */
export function tell(event: Event): void {
  let bytes: Uint8Array = Buffer.from(`${JSON.stringify(event)}\n`);
  while (bytes.length > 0) bytes = bytes.subarray(fs.writeSync(EVENTS, bytes));
}

/** After an interrupt, which may have cut an event in the middle. */
export function endCutEvent(): void {
  fs.writeSync(EVENTS, '\n');
}

/** The strings that belong to the present request. */
export function payload(): string[] {
  const bytes = Buffer.alloc(fs.fstatSync(PAYLOAD).size);
  fs.readSync(PAYLOAD, bytes, 0, bytes.length, 0);
  return bytes.subarray(0, -1).toString('utf8').split('\0');
}

/** Calls `serve` for each request, and `end` when the bridge is gone. */
export function onRequest(serve: (request: string) => void, end: () => void): void {
  onLine(REQUESTS, serve, end);
}

/** Calls `serve` with the number of the run that is to be interrupted. */
export function onInterrupt(serve: (run: number) => void): void {
  onLine(
    INTERRUPTS,
    (line) => serve(Number(line)),
    () => {},
  );
}

function onLine(fd: number, serve: (line: string) => void, end: () => void): void {
  let rest = '';
  const socket = new net.Socket({ fd, readable: true, writable: false });
  socket.setEncoding('latin1');
  socket.on('data', (text) => {
    const lines = `${rest}${text}`.split('\n');
    rest = lines.pop()!;
    for (const line of lines) serve(line);
  });
  socket.on('error', end);
  socket.on('end', end);
}
