/** The network of a host where none can be had: guests have none, and asking for one is refused by name. */
import { CoppiceError } from '../contract/errors.ts';
import type { NetworkFabric } from './fabric.ts';

/** `reason` completes "guests have no network: …" and names what is missing, e.g. "nft is not installed". */
export function createNoNetwork(reason: string): NetworkFabric {
  return {
    name: 'none',
    enforcing: false,
    notices: [`network: off, guests have no network: ${reason}`],
    start: async () => {},
    attach: async (id) => {
      throw refusal(`a network for ${id} cannot be made: ${reason}`, reason);
    },
    // Nothing leaves a guest that has no network, so a policy of "nothing leaves" holds.
    setPolicy: async (_id, policy) => {
      if (policy.allowInternet) throw refusal(`allow_internet_access cannot be honoured: ${reason}`, reason);
    },
    openService: async (id) => {
      throw refusal(`${id} cannot reach the host: ${reason}`, reason);
    },
    detach: async () => {},
    census: async () => ({ ports: [], addresses: [], rules: [] }),
    attached: async () => [],
    leased: async () => [],
    stop: async () => {},
  };
}

function refusal(message: string, reason: string): CoppiceError {
  return new CoppiceError('unsupported_policy', message, { details: { reason } });
}
