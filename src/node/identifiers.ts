/** Names and secrets of sandboxes. */
import { createHmac, randomBytes, randomInt, randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789';

/** E2B's form: `i` and 20 of [a-z0-9]; never a dash, since routes cut ids there. */
export function newSandboxID(): string {
  return `i${newTemplateID()}`;
}

/** E2B's form: 20 of [a-z0-9]. */
export function newTemplateID(): string {
  let id = '';
  for (let count = 0; count < 20; count++) id += ALPHABET[randomInt(ALPHABET.length)];
  return id;
}

/** 32 hex digits, as /etc/machine-id wants them. */
export function newMachineID(): string {
  return randomUUID().replaceAll('-', '');
}

/** The machine id of a sandbox: the same for as long as the sandbox is there, whatever machines it has. */
export function machineIDOf(seed: Buffer, sandboxID: string): string {
  return createHmac('sha256', seed).update(`machine-id:${sandboxID}`).digest('hex').slice(0, 32);
}

/** base64 of 64 bytes for the guest kernel's pool. */
export function newEntropy(): string {
  return randomBytes(64).toString('base64');
}

/** The node's seed: made once, mode 0600. */
export function openSeed(file: string): Buffer {
  if (!existsSync(file)) writeFileSync(file, randomBytes(32), { mode: 0o600, flag: 'wx' });
  return readFileSync(file);
}

/** What servers in a sandbox demand of their callers when its traffic is not public; as `accessToken`. */
export function trafficToken(seed: Buffer, sandboxID: string): string {
  return createHmac('sha256', seed).update(`traffic:${sandboxID}`).digest('hex');
}

/** What the content API demands for a volume; as `accessToken`. */
export function volumeToken(seed: Buffer, volumeID: string): string {
  return createHmac('sha256', seed).update(`volume:${volumeID}`).digest('hex');
}

/** The envd token of a sandbox: derived, so that it is the same after any restart and stored nowhere. */
export function accessToken(seed: Buffer, sandboxID: string): string {
  return createHmac('sha256', seed).update(`envd:${sandboxID}`).digest('hex');
}
