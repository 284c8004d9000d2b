/** `coppice leaks`: asks the running node, or counts on its own when none runs (then nothing at all may be there). */
import type { LeakReport } from '../contract/node-api.ts';
import { connectNodeApi } from '../contract/node-rpc/client.ts';
import { takeCensus } from '../node/leaks.ts';
import { type Home, openHome } from '../store/home.ts';
import { type Log, silentLog } from '../telemetry/log.ts';
import { openHost } from './host.ts';
import { serviceHolder } from './lock.ts';
import { type OutputOptions, print } from './report.ts';
import { readSettings } from './settings.ts';

export async function leaks(options: OutputOptions): Promise<void> {
  const home = openHome(readSettings().homeFolder);
  const report = serviceHolder(home) ? await askNode(home) : await leaksOfHome(home, silentLog);
  print(options, report, () => {
    const counts = Object.entries(report).filter(([name]) => name !== 'details');
    return [...counts.map(([name, count]) => `${String(count).padStart(5)}  ${name}`), ...report.details].join('\n');
  });
  if (report.details.length > 0) process.exitCode = 1;
}

async function askNode(home: Home): Promise<LeakReport> {
  const node = connectNodeApi(home.nodeSocket);
  try {
    return await node.leaks();
  } finally {
    await node.close();
  }
}

/** For a home that nothing serves: every machine, tap and rule in its name is a leak. */
export async function leaksOfHome(home: Home, log: Log): Promise<LeakReport> {
  const host = openHost(home, log);
  return takeCensus(host.backends, await host.openFabric(), home.machines, () => []);
}
