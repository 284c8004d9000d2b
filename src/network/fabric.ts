/**
 * The network, seen from the node: guest-originated traffic only. Every port, address and rule lives in one network
 * namespace that Coppice owns; one veth leads out. Fails closed: no rule, no packet.
 */

export interface EgressPolicy {
  /** False: nothing leaves. Hard denies (host, private, link-local, metadata, other sandboxes) hold either way. */
  readonly allowInternet: boolean;
}

/**
 * How a sandbox meets the fabric. `tap`: a device in the fabric's namespace, owned by `uid`, for a VMM to open.
 * `namespace`: a network namespace of the sandbox's own, whose one interface is the far end of a veth, addressed and
 * routed; nothing in it belongs to the sandbox's user namespace, so nothing of it can be changed from inside.
 */
export type PortKind = 'tap' | 'namespace';

export interface Attachment {
  readonly id: string;
  readonly kind: PortKind;
  /** Name of the sandbox's interface in the fabric's namespace; every rule is about it. */
  readonly port: string;
  /** Path of the namespace to enter: the fabric's for a tap, the sandbox's own else. */
  readonly namespace: string;
  /** IPv4 of the sandbox, dotted; prefix 32 or 31; gateway is on-link. */
  readonly address: string;
  readonly prefix: number;
  readonly gateway: string;
  /** Path of the namespace in which to listen at SERVICE_PORT, to be reached by this sandbox and others. */
  readonly service: string;
}

/** Where sandboxes that may reach it find what the host serves: TCP, at their gateway, in the namespace of `Attachment.service`. */
export const SERVICE_PORT = 2049;

export interface NetworkFabric {
  readonly name: string;
  /** True when ports and policies can be had; false on rootless hosts (no attachment is made, guests have no network). */
  readonly enforcing: boolean;
  /** One line each: what is off and why. */
  readonly notices: readonly string[];
  /** Idempotent: makes the namespace, veth and base rules (default drop) or finds them as they should be. */
  start(signal?: AbortSignal): Promise<void>;
  /**
   * Makes port, address and rules for `id`, in one transaction each. Traffic is denied until a policy allows it: `policy`,
   * part of the same transaction, or a later `setPolicy`. `uid` owns a tap; a namespace has no owner and takes none.
   */
  attach(
    id: string,
    options: { readonly kind: PortKind; readonly uid?: number; readonly policy?: EgressPolicy },
  ): Promise<Attachment>;
  /** Resolves when nothing that it denies passes any more, established flows included. */
  setPolicy(id: string, policy: EgressPolicy): Promise<void>;
  /** Lets it reach SERVICE_PORT of its gateway, until it is detached, whatever its policy. Idempotent. */
  openService(id: string): Promise<void>;
  /** Idempotent. Flows are cut at once, and none of them reaches a later holder of the address. */
  detach(id: string): Promise<void>;
  /** Attachments found on the host. */
  census(): Promise<{
    /** Interfaces in the fabric's namespace by name, namespaces of sandboxes by path: an attachment's `port`, `namespace`. */
    readonly ports: readonly string[];
    readonly addresses: readonly string[];
    readonly rules: readonly string[];
  }>;
  /** Which sandbox ids the census items belong to is by name: port `cp<…>` maps to id through the persisted lease. */
  attached(): Promise<readonly Attachment[]>;
  /** Those, and what is being attached or detached just now, of which a census may find a part. */
  leased(): Promise<readonly Attachment[]>;
  /** Removes everything, namespace included. Idempotent. */
  stop(): Promise<void>;
}
