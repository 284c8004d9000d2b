/**
 * The network, seen from the node: guest-originated traffic only. Every tap, address and rule lives in one network
 * namespace that Coppice owns; one veth leads out. Fails closed: no rule, no packet.
 */

export interface EgressPolicy {
  /** False: nothing leaves. Hard denies (host, private, link-local, metadata, other sandboxes) hold either way. */
  readonly allowInternet: boolean;
}

export interface Attachment {
  readonly id: string;
  readonly tap: string;
  /** Path of the namespace, e.g. /run/netns/coppice-<instance>. */
  readonly namespace: string;
  /** IPv4 of the sandbox, dotted; prefix 32; gateway is on-link. */
  readonly address: string;
  readonly prefix: number;
  readonly gateway: string;
}

export interface NetworkFabric {
  readonly name: string;
  /** True when taps and policies can be had; false on rootless hosts (no attachment is made, guests have no network). */
  readonly enforcing: boolean;
  /** One line each: what is off and why. */
  readonly notices: readonly string[];
  /** Idempotent: makes the namespace, veth and base rules (default drop) or finds them as they should be. */
  start(signal?: AbortSignal): Promise<void>;
  /** Makes a tap owned by uid, address and rules for `id`, in one transaction each; traffic is denied until `setPolicy` allows it. */
  attach(id: string, options: { readonly uid?: number }): Promise<Attachment>;
  /** One transaction; also cuts established flows that the new policy denies. */
  setPolicy(id: string, policy: EgressPolicy): Promise<void>;
  /** Idempotent. Flows are flushed before the address can be used again. */
  detach(id: string): Promise<void>;
  /** Attachments found on the host. */
  census(): Promise<{
    readonly taps: readonly string[];
    readonly addresses: readonly string[];
    readonly rules: readonly string[];
  }>;
  /** Which sandbox ids the census items belong to is by name: tap `cp<…>` maps to id through the persisted lease. */
  attached(): Promise<readonly Attachment[]>;
  /** Removes everything, namespace included. Idempotent. */
  stop(): Promise<void>;
}
