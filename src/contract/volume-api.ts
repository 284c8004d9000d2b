/** Volumes: named folders of a team, bounded in size, that its sandboxes share and that outlive them. */

export interface VolumeView {
  readonly volumeID: string;
  /** Of a team only one. */
  readonly name: string;
}

export interface VolumeAndToken extends VolumeView {
  /** What the content API demands, for this volume alone. */
  readonly token: string;
}

/** A volume in a sandbox. */
export interface VolumeMount {
  readonly name: string;
  /** Absolute path. */
  readonly path: string;
}

/** Errors: CoppiceError. A volume of another team is `volume_not_found`. */
export interface VolumeApi {
  /** bad_request: no name, or too many volumes; conflict: the team has one of that name. */
  createVolume(teamID: string, name: string): Promise<VolumeAndToken>;
  /** By name. */
  listVolumes(teamID: string): Promise<readonly VolumeView[]>;
  getVolume(teamID: string, volumeID: string): Promise<VolumeAndToken>;
  /** With all that is in it. conflict: a sandbox has it, running or paused. */
  deleteVolume(teamID: string, volumeID: string): Promise<void>;
}

/** On the traffic socket: an exchange of the content API, `<volumeID>/<kind>`; the query is the client's. */
export const TRAFFIC_VOLUME_HEADER = 'x-coppice-volume';
