/** The verbs on volumes. What is in them goes by the content API, see volume-content.ts. */
import { newVolume } from '../contract/e2b/requests.ts';
import { type ApiContext, param, type Route, teamOf } from './route.ts';
import { validate } from './validation.ts';

export function volumeRoutes({ node, domain }: ApiContext): readonly Route[] {
  /** Where the content API is: with this server's other answers. */
  const whereabouts = domain === undefined ? {} : { domain };
  return [
    {
      method: 'GET',
      path: '/volumes',
      handle: async (request, reply) => reply.send(await node.listVolumes(teamOf(request))),
    },
    {
      method: 'POST',
      path: '/volumes',
      handle: async (request, reply) => {
        const { name } = validate(newVolume, request.body);
        return reply.code(201).send({ ...(await node.createVolume(teamOf(request), name)), ...whereabouts });
      },
    },
    {
      method: 'GET',
      path: '/volumes/:volumeID',
      handle: async (request, reply) =>
        reply.send({ ...(await node.getVolume(teamOf(request), param(request, 'volumeID'))), ...whereabouts }),
    },
    {
      method: 'DELETE',
      path: '/volumes/:volumeID',
      handle: async (request, reply) => {
        await node.deleteVolume(teamOf(request), param(request, 'volumeID'));
        return reply.code(204).send();
      },
    },
  ];
}
