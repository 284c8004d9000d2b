/** Volumes of a fake node: names and tokens, no files. */
import { randomBytes, randomUUID } from 'node:crypto';
import { CoppiceError } from '../../src/contract/errors.ts';
import type { VolumeAndToken, VolumeApi } from '../../src/contract/volume-api.ts';

export class FakeVolumes implements VolumeApi {
  readonly volumes = new Map<string, VolumeAndToken & { readonly teamID: string }>();

  readonly createVolume: VolumeApi['createVolume'] = async (teamID, name) => {
    if ([...this.volumes.values()].some((one) => one.teamID === teamID && one.name === name))
      throw new CoppiceError('conflict', `Volume with name '${name}' already exists`);
    const volume = { volumeID: randomUUID(), name, token: randomBytes(32).toString('hex') };
    this.volumes.set(volume.volumeID, { ...volume, teamID });
    return volume;
  };

  readonly listVolumes: VolumeApi['listVolumes'] = async (teamID) =>
    [...this.volumes.values()]
      .filter((one) => one.teamID === teamID)
      .map(({ volumeID, name }) => ({ volumeID, name }))
      .toSorted((a, b) => (a.name < b.name ? -1 : 1));

  readonly getVolume: VolumeApi['getVolume'] = async (teamID, volumeID) => {
    const found = this.volumes.get(volumeID);
    if (found?.teamID !== teamID) throw new CoppiceError('volume_not_found', `Volume '${volumeID}' not found`);
    const { name, token } = found;
    return { volumeID, name, token };
  };

  readonly deleteVolume: VolumeApi['deleteVolume'] = async (teamID, volumeID) => {
    await this.getVolume(teamID, volumeID);
    this.volumes.delete(volumeID);
  };
}
