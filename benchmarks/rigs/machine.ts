/** What a result was measured on. */
import { cpus, release, totalmem } from 'node:os';

export function describeHost() {
  const processors = cpus();
  return {
    cpu: processors[0]?.model ?? 'unknown',
    cores: processors.length,
    memory_mib: Math.round(totalmem() / 2 ** 20),
    kernel: `${process.platform} ${release()}`,
    node: process.version,
  };
}
