import { randomBytes } from 'node:crypto';
import { ApiError } from './api-error.ts';
import type { ApiTable, Call } from './api.ts';
import { presign } from './presign.ts';
import type { Service } from './service.ts';
import { Session } from './session.ts';

interface Document {
  /** Parameter -> default; undefined when it must be given. */
  readonly parameters: Readonly<Record<string, string | undefined>>;
  readonly isForwarding: boolean;
}

const DOCUMENTS: Readonly<Record<string, Document>> = {
  'AWS-StartSSHSession': { parameters: { portNumber: '22' }, isForwarding: false },
  'AWS-StartPortForwardingSession': {
    parameters: { portNumber: '80', localPortNumber: '0' },
    isForwarding: true,
  },
  'AWS-StartPortForwardingSessionToRemoteHost': {
    parameters: { host: undefined, portNumber: '80', localPortNumber: '0' },
    isForwarding: true,
  },
};

const PORT = /^([1-9]|[1-9]\d{1,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])$/;
const TARGET = /^(i-[0-9a-f]{8}|i-[0-9a-f]{17}|mi-[0-9a-f]{17}|ecs:[\w-]+_[0-9a-f]+_[0-9a-f-]+)$/;

/** Session Manager's part of the SSM API. */
export function sessionOperations(service: Service): ApiTable['operations'] {
  const streamUrl = (session: Session, gateway: string): string => {
    // Unescaped base64 in a query is what the real service hands out.
    const cell = `AAEAA${randomBytes(6).toString('base64')}+/a=`;
    const url = `wss://${gateway}/v1/data-channel/${session.id}?role=publish_subscribe&cell-number=${cell}`;
    const [credentials] = service.credentials;
    return service.settings.presignedUrls && credentials !== undefined
      ? presign(url, service.settings.region, credentials, service.clock.now())
      : url;
  };
  return {
    StartSession: (call) => {
      const target = requiredText(call, 'Target');
      const node = service.nodes.get(target);
      const request = { target, ...documentOf(call), reason: optionalText(call, 'Reason') };
      if (!TARGET.test(target)) {
        throw new ApiError('ValidationException', `Invalid target ${target}`);
      }
      if (node === undefined || node.online === false) {
        throw new ApiError('TargetNotConnected', `${target} is not connected.`);
      }
      const session = new Session(service, node, request);
      service.sessions.set(session.id, session);
      service.log(
        `${session.id}: started for ${target}, ${request.documentName} ${JSON.stringify(request.parameters)}${request.reason === undefined ? '' : `, reason '${request.reason}'`}`,
      );
      service.changed();
      return {
        SessionId: session.id,
        TokenValue: session.newToken(),
        StreamUrl: streamUrl(session, service.gateways.main),
      };
    },
    ResumeSession: (call) => {
      const id = requiredText(call, 'SessionId');
      const session = service.sessions.get(id);
      if (session === undefined || session.state === 'ended') {
        if (service.settings.resumeGone === 'empty-token' && session !== undefined) {
          return { SessionId: id, TokenValue: '' };
        }
        throw new ApiError('DoesNotExistException', `Session ${id} does not exist.`);
      }
      session.resumed();
      const url = resumeUrl(service, session, streamUrl);
      service.changed();
      return { SessionId: id, TokenValue: session.newToken(), ...url };
    },
    TerminateSession: (call) => {
      const id = requiredText(call, 'SessionId');
      const session = service.sessions.get(id);
      if (session === undefined) {
        throw new ApiError('DoesNotExistException', `Session ${id} does not exist.`);
      }
      session.end('terminate-api');
      return { SessionId: id };
    },
  };
}

function resumeUrl(
  service: Service,
  session: Session,
  streamUrl: (session: Session, gateway: string) => string,
): { StreamUrl?: string } {
  switch (service.settings.resumeUrl) {
    case 'absent':
      return {};
    case 'same':
      return { StreamUrl: streamUrl(session, service.gateways.main) };
    case 'other':
      return { StreamUrl: streamUrl(session, service.gateways.other) };
  }
}

function documentOf(call: Call): {
  documentName: string;
  parameters: Record<string, string[]>;
  properties: Record<string, string>;
} {
  const documentName = optionalText(call, 'DocumentName');
  const document = documentName === undefined ? undefined : DOCUMENTS[documentName];
  if (documentName === undefined || document === undefined) {
    throw new ApiError(
      'InvalidDocument',
      `Document with name ${String(documentName)} does not exist.`,
    );
  }
  const parameters = parametersOf(call);
  const properties: Record<string, string> = {};
  for (const name of Object.keys(parameters)) {
    if (!(name in document.parameters)) {
      throw new ApiError('InvalidParameters', `Parameter ${name} is not defined in the document`);
    }
  }
  for (const [name, fallback] of Object.entries(document.parameters)) {
    const value = parameters[name]?.[0] ?? fallback;
    if (value === undefined || parameters[name]?.length === 0) {
      throw new ApiError('InvalidParameters', `Parameter ${name} is missing`);
    }
    const isPort = name.endsWith('ortNumber');
    if (isPort && !PORT.test(value) && !(name === 'localPortNumber' && value === '0')) {
      throw new ApiError('InvalidParameters', `Parameter ${name} does not match the pattern`);
    }
    properties[name] = value;
  }
  if (document.isForwarding) properties['type'] = 'LocalPortForwarding';
  return { documentName, parameters, properties };
}

function parametersOf(call: Call): Record<string, string[]> {
  const given = call.input['Parameters'];
  if (given === undefined) return {};
  if (typeof given !== 'object' || given === null) throw malformed('Parameters');
  const parameters: Record<string, string[]> = {};
  for (const [name, value] of Object.entries(given)) {
    if (!Array.isArray(value)) throw malformed('Parameters');
    parameters[name] = value.map((item: unknown) => {
      if (typeof item !== 'string') throw malformed('Parameters');
      return item;
    });
  }
  return parameters;
}

export function requiredText(call: Call, name: string): string {
  const value = optionalText(call, name);
  if (value === undefined || value === '') {
    throw new ApiError(
      'ValidationException',
      `1 validation error detected: Value at '${name}' failed to satisfy constraint: Member must not be null`,
    );
  }
  return value;
}

export function optionalText(call: Call, name: string): string | undefined {
  const value = call.input[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw malformed(name);
  return value;
}

function malformed(name: string): ApiError {
  return new ApiError('SerializationException', `Unexpected field type: ${name}`);
}
