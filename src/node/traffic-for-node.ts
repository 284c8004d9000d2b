/** Lets the traffic server find the node's sandboxes. */
import { matchesSignature } from '../envd/auth.ts';
import type { Log } from '../telemetry/log.ts';
import { createContentServer } from '../volumes/content-server.ts';
import type { Member } from './member.ts';
import type { Node } from './node.ts';
import { createTrafficServer, type TrafficServer, type TrafficTarget } from './traffic/server.ts';

export function createTraffic(node: Node, log: Log): TrafficServer {
  const { uploads } = node;
  return createTrafficServer({
    lookup: (sandboxID) => {
      const member = node.member(sandboxID);
      return member && targetOf(member);
    },
    wake: (sandboxID, knock) => node.wake(sandboxID, knock)?.then((member) => member && targetOf(member)),
    findBySignature: (url) => {
      for (const member of node.members()) {
        const verdict = matchesSignature(member, url);
        if (verdict === 'ok' || verdict === 'expired') return targetOf(member);
      }
      return undefined;
    },
    ...(uploads ? { receive: (what, req, res) => uploads.receive(what, req, res) } : {}),
    volume: createContentServer({ open: (volumeID, token) => node.volumes.open(volumeID, token), log }),
    log,
  });
}

function targetOf(member: Member): TrafficTarget {
  const { id: sandboxID, trafficToken, maskRequestHost } = member;
  return {
    sandboxID,
    ...(trafficToken === undefined ? {} : { trafficAccessToken: trafficToken }),
    ...(maskRequestHost === undefined ? {} : { maskRequestHost }),
    get envd() {
      return member.envd;
    },
    get interpreter() {
      return member.interpreter;
    },
    agent: () => member.session ?? member.agent(),
    track: (cut) => member.track(cut),
  };
}
