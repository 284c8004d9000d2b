/**
 * The fabric on Linux: one network namespace, one nftables table inside it, one veth and one table outside. Sandboxes hang
 * off the one namespace, each by its port.
 */
import { CoppiceError } from '../../contract/errors.ts';
import type { Log } from '../../telemetry/log.ts';
import type { Attachment, EgressPolicy, NetworkFabric } from '../fabric.ts';
import { formatAddress, parseAddress, parseRange } from '../ipv4.ts';
import { chooseSubnet, parseRoutes, takeAddress } from './addresses.ts';
import { applySettings, ensureNamespace, ensureVeth, removeNamespace } from './base.ts';
import { createBatcher } from './batch.ts';
import { takeCensus } from './census.ts';
import { hostCommands, namespaceCommands } from './commands.ts';
import {
  checkId,
  checkUid,
  type FabricConfig,
  fabricConfig,
  GATEWAY,
  namespacePath,
  portName,
  sandboxNamespace,
  type VethAddresses,
  vethAddresses,
} from './config.ts';
import { createFlowFlush } from './conntrack.ts';
import { createForwarding } from './forwarding.ts';
import { hostRuleset, removeHostRuleset } from './host-rules.ts';
import { Journal, type Lease } from './journal.ts';
import { deletePorts, findPorts, isWhole, makePorts, repairPorts } from './ports.ts';
import { foreignForwardDrops } from './probe.ts';
import { createRules } from './rules.ts';

export interface NftablesOptions {
  /** [a-z0-9]{1,8}: tells the fabrics of one host apart. */
  readonly instance: string;
  /** Holds network.json; made when missing. */
  readonly stateFolder: string;
  readonly log: Log;
}

export function createNftablesFabric(options: NftablesOptions): NetworkFabric {
  const config = fabricConfig(options.instance);
  const log = options.log.child({ fabric: config.namespace });
  const host = hostCommands();
  const inside = namespaceCommands(config);
  const rules = createRules(inside, log);
  const flush = createFlowFlush(config, log);
  const forwarding = createForwarding(config, host);
  /** Verbs on sandboxes under way, by sandbox. */
  const turns = new Map<string, Promise<unknown>>();
  /** start or stop under way: they have the fabric to themselves. */
  let exclusive: Promise<void> | undefined;
  let starting: Promise<void> | undefined;
  let opening: Promise<Journal> | undefined;
  let notices: readonly string[] = [];
  let base: { readonly journal: Journal; readonly addresses: VethAddresses; readonly mtu: number } | undefined;

  const openJournal = () => {
    opening ??= Journal.open(options.stateFolder, options.instance, log).catch((error) => {
      opening = undefined;
      throw error;
    });
    return opening;
  };

  const started = () => {
    if (!base) throw new CoppiceError('unavailable', 'the network is not started');
    return base;
  };

  const idle = async () => {
    while (exclusive) await exclusive.catch(() => {});
  };

  function alone(act: () => Promise<void>): Promise<void> {
    const before = exclusive ?? Promise.resolve();
    const run = before
      .catch(() => {})
      .then(async () => {
        while (turns.size > 0) await Promise.allSettled(turns.values());
        await act();
      })
      .finally(() => {
        if (exclusive === run) exclusive = undefined;
      });
    exclusive = run;
    return run;
  }

  /** Verbs on one sandbox happen one after another. */
  async function inTurn<T>(id: string, act: () => Promise<T>): Promise<T> {
    await idle();
    const turn = (turns.get(id) ?? Promise.resolve()).catch(() => {}).then(act);
    turns.set(id, turn);
    try {
      return await turn;
    } finally {
      if (turns.get(id) === turn) turns.delete(id);
    }
  }

  const deleteAll = (leases: readonly Lease[]) =>
    deletePorts(config, portsOf(leases), portsOf(leases.filter(({ kind }) => kind === 'namespace')), inside);

  const attachAll = createBatcher<Lease>(async (leases) => {
    const { journal, mtu } = started();
    for (const lease of leases) journal.put(lease);
    await journal.save();
    const acts = await Promise.allSettled([makePorts(config, leases, mtu, inside), rules.change(leases)]);
    const failed = acts.find((act) => act.status === 'rejected');
    if (failed) {
      await deleteAll(leases);
      await rules.change([], portsOf(leases));
      throw failed.reason;
    }
    for (const lease of leases) journal.put({ ...lease, state: 'attached' });
    await journal.save();
  });

  const applyAll = createBatcher<{ readonly from: Lease; readonly to: Lease }>(async (changes) => {
    const { journal } = started();
    for (const { to } of changes) journal.put(to);
    try {
      await journal.save();
      await rules.change(changes.map(({ to }) => to));
    } catch (error) {
      for (const { from } of changes) journal.put(from);
      await journal.save();
      throw error;
    }
  });

  async function apply(from: Lease, policy: EgressPolicy): Promise<void> {
    const { journal, addresses } = started();
    if (policy.allowInternet === (from.mark !== 0)) return;
    if (policy.allowInternet) await forwarding.turnOn(addresses, journal);
    await applyAll({ from, to: { ...from, mark: policy.allowInternet ? journal.takeMark() : 0 } });
  }

  const detachAll = createBatcher<Lease>(async (leases) => {
    const { journal } = started();
    for (const lease of leases) journal.put({ ...lease, state: 'detaching' });
    await journal.save();
    // Once either is done no packet passes; a lease leaves the journal when both are.
    const acts = await Promise.allSettled([rules.change([], portsOf(leases)), deleteAll(leases)]);
    for (const act of acts) if (act.status === 'rejected') throw act.reason;
    for (const lease of leases) journal.drop(lease.id);
    await journal.save();
    flush.begin(leases.map((lease) => lease.address));
  });

  /**
   * Deletes the ports that nobody owns. Looks for them anew: a command of a killed node may have gone on until just now.
   * Until then the rules, which do not know them, keep them still.
   */
  async function deleteSurplus(keep: readonly Lease[]): Promise<void> {
    const found = await findPorts(config, inside);
    const kept = new Map(keep.map((lease) => [lease.port, lease]));
    const interfaces = [...found.interfaces.keys()].filter((port) => !kept.has(port));
    const namespaces = [...found.namespaces.keys()].filter((port) => kept.get(port)?.kind !== 'namespace');
    if (interfaces.length + namespaces.length > 0) log.info({ interfaces, namespaces }, 'ports without an owner');
    await deletePorts(config, interfaces, namespaces, inside);
  }

  async function doStart(signal?: AbortSignal): Promise<void> {
    const journal = await openJournal();
    const { state } = journal;
    const found = await findPorts(config, inside);
    const keep = state.leases.filter((lease) => lease.state === 'attached' && isWhole(lease, found));
    const lost = state.leases.filter((lease) => !keep.includes(lease));
    if (lost.length > 0) log.info({ kept: keep.length, lost: lost.map((lease) => lease.id) }, 'network reconciled');

    const routes = parseRoutes(await host.ipList(['-4', 'route', 'show', 'table', 'all']), config.veth);
    state.subnet = subnetFor(config, state.subnet, keep.length > 0, routes);
    const addresses = vethAddresses(parseAddress(state.subnet)!);
    await journal.save();

    await ensureNamespace(config, signal);
    await rules.load(keep, signal);
    await applySettings(inside, signal);
    await host.nft(hostRuleset(config, addresses, state.forwardingWasOff), signal);
    const { mtu } = await ensureVeth(config, addresses, host, inside, signal);
    await repairPorts(config, keep, mtu, found, inside, signal);
    await deleteSurplus(keep);
    flush.begin(lost.map((lease) => lease.address));
    for (const lease of lost) journal.drop(lease.id);
    await journal.save();
    if (keep.some((lease) => lease.mark !== 0)) await forwarding.turnOn(addresses, journal);
    notices = [...(await foreignForwardDrops(config.veth, host)), ...(await flush.notices())];
    base = { journal, addresses, mtu };
  }

  const fabric: NetworkFabric = {
    name: 'nftables',
    enforcing: true,
    get notices() {
      return notices;
    },

    start(signal) {
      starting ??= alone(() => doStart(signal)).finally(() => {
        starting = undefined;
      });
      return starting;
    },

    attach(id, { kind, uid, policy }) {
      return inTurn(id, async () => {
        checkId(id);
        checkUid(uid);
        const { journal, addresses } = started();
        const owner = kind === 'tap' ? uid : undefined;
        const held = journal.find(id);
        if (held?.state === 'attached' && held.kind === kind && held.uid === owner) {
          if (policy) await apply(held, policy);
          return attachment(config, held);
        }
        if (held) throw new CoppiceError('conflict', `${id} has a network of another kind, or half of one; detach it`);
        if (policy?.allowInternet) await forwarding.turnOn(addresses, journal);
        const lease: Lease = {
          id,
          kind,
          port: portName(journal.takeLeaseNumber()),
          address: takeAddress(journal.state),
          ...(owner === undefined ? {} : { uid: owner }),
          state: 'attaching',
          mark: policy?.allowInternet ? journal.takeMark() : 0,
        };
        // In the journal's memory from here on, so that nobody else is given this address.
        journal.put(lease);
        await attachAll(lease).catch(async (error) => {
          // What could not be cleaned up stays in the journal, for detach or the next start.
          const left = await findPorts(config, inside);
          if (!left.interfaces.has(lease.port) && !left.namespaces.has(lease.port)) journal.drop(id);
          await journal.save();
          throw error;
        });
        return attachment(config, lease);
      });
    },

    setPolicy(id: string, policy: EgressPolicy) {
      return inTurn(id, async () => {
        const lease = started().journal.find(id);
        if (lease?.state !== 'attached') throw new CoppiceError('conflict', `${id} has no network`);
        await apply(lease, policy);
      });
    },

    openService(id) {
      return inTurn(id, async () => {
        const lease = started().journal.find(id);
        if (lease?.state !== 'attached') throw new CoppiceError('conflict', `${id} has no network`);
        if (!lease.served) await applyAll({ from: lease, to: { ...lease, served: true } });
      });
    },

    async detach(id) {
      await idle();
      const found = (await openJournal()).find(id);
      if (found && !base) await fabric.start();
      await inTurn(id, async () => {
        const lease = (await openJournal()).find(id);
        if (lease) await detachAll(lease);
      });
    },

    census: () => takeCensus(config, inside),

    async attached() {
      const journal = await openJournal();
      const found = await findPorts(config, inside);
      return journal.state.leases
        .filter((lease) => lease.state === 'attached' && isWhole(lease, found))
        .map((lease) => attachment(config, lease));
    },

    async leased() {
      const journal = await openJournal();
      return journal.state.leases.map((lease) => attachment(config, lease));
    },

    stop() {
      return alone(async () => {
        base = undefined;
        await flush.settled();
        const journal = await openJournal();
        await removeNamespace(config, host, inside);
        if (!(await forwarding.restore(journal)))
          log.warn({}, 'IPv4 forwarding of the host is left on: another Coppice of this host needs it');
        await host.nft(removeHostRuleset(config));
        await journal.remove();
        opening = undefined;
        notices = [];
      });
    },
  };
  return fabric;
}

const portsOf = (leases: readonly Lease[]) => leases.map((lease) => lease.port);

function attachment(config: FabricConfig, lease: Lease): Attachment {
  return {
    id: lease.id,
    kind: lease.kind,
    port: lease.port,
    namespace: lease.kind === 'tap' ? config.namespacePath : namespacePath(sandboxNamespace(config, lease.port)),
    address: lease.address,
    prefix: 32,
    gateway: GATEWAY,
    service: config.namespacePath,
  };
}

/** The subnet in use stays while sandboxes stand in it; otherwise only as long as it clashes with nothing. */
function subnetFor(
  config: FabricConfig,
  current: string | undefined,
  inUse: boolean,
  routes: ReturnType<typeof parseRoutes>,
): string {
  const range = current === undefined ? undefined : parseRange(`${current}/16`);
  if (range && inUse) return current!;
  const clashing = routes.some((route) => route.prefix >= 16 && range && route.base >>> 16 === range.base >>> 16);
  if (range && !clashing) return current!;
  return formatAddress(chooseSubnet(config.instance, routes));
}
