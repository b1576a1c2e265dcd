import {
  EC2InstanceConnectClient,
  SendSSHPublicKeyCommand,
} from '@aws-sdk/client-ec2-instance-connect';
import { BridgeError } from '../errors.ts';
import { type ApiCall, type ApiPlace, errorName, isDenied, isThrottled } from './classify.ts';
import { type ClientBase, clientConfig } from './clients.ts';
import { sendCall } from './sdk-control-plane.ts';
import { retryThrottled } from './throttling.ts';

export interface SshPublicKeyRequest {
  readonly instanceId: string;
  readonly osUser: string;
  /** One line, as in a .pub file. */
  readonly publicKey: string;
  readonly availabilityZone?: string | undefined;
}

/** EC2 Instance Connect: keys that an instance accepts for 60 seconds. */
export interface InstanceConnect {
  /** Rejects with key.*, credentials.*, target.* or network.* errors. */
  sendSshPublicKey(request: SshPublicKeyRequest, signal: AbortSignal): Promise<void>;
}

export class SdkInstanceConnect implements InstanceConnect {
  readonly #base: ClientBase;
  readonly #place: ApiPlace;
  readonly #client: EC2InstanceConnectClient;

  constructor(base: ClientBase, place: ApiPlace) {
    this.#base = base;
    this.#place = place;
    this.#client = new EC2InstanceConnectClient(clientConfig(base, 'EC2 Instance Connect', false));
  }

  async sendSshPublicKey(request: SshPublicKeyRequest, signal: AbortSignal): Promise<void> {
    const { instanceId, osUser, publicKey, availabilityZone } = request;
    const command = new SendSSHPublicKeyCommand({
      InstanceId: instanceId,
      InstanceOSUser: osUser,
      SSHPublicKey: publicKey,
      ...(availabilityZone === undefined ? {} : { AvailabilityZone: availabilityZone }),
    });
    const call: ApiCall = {
      action: 'ec2-instance-connect:SendSSHPublicKey',
      on: instanceId,
      target: instanceId,
    };
    const attempt = (): Promise<unknown> =>
      sendCall(
        () => this.#client.send(command, { abortSignal: signal }),
        call,
        this.#place,
        this.#base,
        signal,
      );
    try {
      const output = await retryThrottled(attempt, signal, this.#base.logger);
      if (isRefusal(output)) {
        throw new BridgeError(
          'key.failed',
          `EC2 Instance Connect did not take the key for ${instanceId}`,
        );
      }
    } catch (error) {
      throw keyError(error, request);
    }
    this.#base.logger.debug({ instanceId, osUser }, 'public key sent');
  }
}

/** The API documents a `Success` flag besides its errors. */
function isRefusal(output: unknown): boolean {
  return (
    typeof output === 'object' && output !== null && 'Success' in output && output.Success === false
  );
}

/** Failures of this call in terms of the key; what is not about the key stays what it is. */
function keyError(error: unknown, { instanceId, osUser }: SshPublicKeyRequest): unknown {
  if (!(error instanceof BridgeError)) return error;
  const { cause } = error;
  const options = { cause: error };
  const name = errorName(cause);
  if (isDenied(cause) || name === 'AuthException') {
    return new BridgeError('key.denied', `pushing a key for ${osUser}: ${error.message}`, {
      ...options,
      hint: `the IAM identity needs ec2-instance-connect:SendSSHPublicKey on ${instanceId}, with any condition on ec2:osuser allowing ${osUser}`,
    });
  }
  if (isThrottled(cause)) {
    return new BridgeError(
      'key.throttled',
      `pushing a key to ${instanceId} was throttled throughout`,
      {
        ...options,
        hint: 'too many key pushes at once; share connections with ControlMaster or try again',
      },
    );
  }
  switch (name) {
    case 'EC2InstanceNotFoundException':
      return new BridgeError(
        'target.unsuitable',
        `EC2 does not know ${instanceId} in this region and account`,
        {
          ...options,
          hint: 'check --region and --profile; for mi-… nodes use --push-key run-command',
        },
      );
    case 'EC2InstanceStateInvalidException':
    case 'EC2InstanceUnavailableException':
      return new BridgeError(
        'target.unsuitable',
        `${instanceId} is not running, or not ready for keys (${name})`,
        {
          ...options,
          hint: 'start the instance, or wait until it is up',
        },
      );
    case 'EC2InstanceTypeInvalidException':
      return new BridgeError(
        'target.unsuitable',
        `EC2 Instance Connect does not serve the type of ${instanceId}`,
        {
          ...options,
          hint: 'use --push-key run-command, or a key that the host already has',
        },
      );
    case 'InvalidArgsException':
      return new BridgeError(
        'key.refused',
        `EC2 Instance Connect refused the key or user ${osUser}: ${error.message}`,
        {
          ...options,
          hint: 'it takes ed25519 and RSA keys, and login names that exist on the instance; check --user and --key',
        },
      );
    default:
      if (error.code !== 'api.failed') return error;
      return new BridgeError('key.failed', error.message, {
        ...options,
        ...(error.hint === undefined ? {} : { hint: error.hint }),
      });
  }
}
