import { BridgeError, oneLine, systemCode } from '../errors.ts';
import { networkError } from '../network-error.ts';

/** What was asked of which service, for messages. */
export interface ApiCall {
  /** IAM action, such as `ssm:StartSession`. */
  readonly action: string;
  /** What the action was asked on, as the user knows it: a node or session id. */
  readonly on: string;
  /** What a policy must name, when that is more than `on`. */
  readonly policyResource?: string;
  /** Node id, for what `TargetNotConnected` can say. */
  readonly target?: string;
  readonly documentName?: string;
}

/** Where calls go and as whom, for messages. */
export interface ApiPlace {
  readonly region: string;
  readonly profile: string | undefined;
  /** Host of the API. */
  readonly host: string;
  /** Bundle in force instead of the default roots. */
  readonly caFile: string | undefined;
}

/** Names of errors that say "these credentials have ended", for all services we call. */
const expiredNames: ReadonlySet<string> = new Set([
  'ExpiredTokenException',
  'ExpiredToken',
  'TokenRefreshRequired',
]);

const throttledNames: ReadonlySet<string> = new Set([
  'ThrottlingException',
  'Throttling',
  'ThrottledException',
  'TooManyRequestsException',
  'RequestLimitExceeded',
  'RequestThrottled',
  'RequestThrottledException',
  'SlowDown',
]);

const deniedNames: ReadonlySet<string> = new Set([
  'AccessDeniedException',
  'AccessDenied',
  'UnauthorizedOperation',
  'OptInRequired',
]);

/** Refusals that come from a wrong clock as often as from wrong keys. */
const signatureNames: ReadonlySet<string> = new Set([
  'InvalidSignatureException',
  'SignatureDoesNotMatch',
  'RequestExpired',
  'RequestTimeTooSkewed',
  'RequestInTheFuture',
]);

const unknownKeyNames: ReadonlySet<string> = new Set([
  'UnrecognizedClientException',
  'InvalidClientTokenId',
  'AuthFailure',
  'MissingAuthenticationToken',
  'MissingAuthenticationTokenException',
]);

export function isExpired(error: unknown): boolean {
  return expiredNames.has(errorName(error));
}

export function isThrottled(error: unknown): boolean {
  return throttledNames.has(errorName(error)) || httpStatus(error) === 429;
}

export function isDenied(error: unknown): boolean {
  return deniedNames.has(errorName(error));
}

/**
 * What a failed API call means. Goes by error names, node's codes and HTTP statuses, never by text. The
 * signal tells why a call was given up.
 */
export function classifyApiError(
  thrown: unknown,
  call: ApiCall,
  place: ApiPlace,
  signal?: AbortSignal,
): BridgeError {
  if (thrown instanceof BridgeError) return thrown;
  if (signal?.aborted === true) return abandoned(call, signal.reason);
  const error = withoutSecrets(thrown);
  return (
    identityError(error, call, place) ??
    sessionError(error, call, place) ??
    transportError(error, call, place) ??
    otherError(error, call)
  );
}

/**
 * The SDK hangs the whole exchange on its errors, signed request headers included, and quotes what it could
 * not parse. What is kept here can be logged with all its properties.
 */
function withoutSecrets(error: unknown): unknown {
  if (!(error instanceof Error) || !('$response' in error)) return error;
  const isAnswer = '$fault' in error;
  const copy = new Error(isAnswer ? error.message : 'the answer cannot be read');
  copy.name = error.name;
  const { httpStatusCode, requestId } = metadata(error);
  return Object.assign(copy, {
    $metadata: { httpStatusCode, requestId },
    ...(isAnswer ? { $fault: error.$fault } : {}),
    ...('code' in error ? { code: error.code } : {}),
  });
}

/** A call ended by its signal. */
export function abandoned(call: Pick<ApiCall, 'action'>, reason: unknown): BridgeError {
  if (reason instanceof BridgeError) return reason;
  return new BridgeError('network.timeout', `${call.action} was not answered in time`, {
    hint: 'check the network, VPN and proxy settings',
    cause: reason,
  });
}

function identityError(error: unknown, call: ApiCall, place: ApiPlace): BridgeError | undefined {
  const name = errorName(error);
  const whose = place.profile === undefined ? '' : ` of profile ${place.profile}`;
  if (deniedNames.has(name)) {
    return new BridgeError(
      'access.denied',
      `${call.action} on ${call.on} was denied${quoted(error)}`,
      {
        hint: `the IAM identity needs ${call.action} on ${call.policyResource ?? call.on}`,
        cause: error,
      },
    );
  }
  if (expiredNames.has(name)) {
    return new BridgeError('credentials.expired', `the AWS credentials${whose} have expired`, {
      hint: renewal(place),
      cause: error,
    });
  }
  if (signatureNames.has(name)) {
    return new BridgeError(
      'credentials.failed',
      `AWS refused the signature of ${call.action} (${name})`,
      {
        hint: 'check the clock of this computer, then the secret access key',
        cause: error,
      },
    );
  }
  if (unknownKeyNames.has(name)) {
    return new BridgeError(
      'credentials.failed',
      `AWS does not know the access key${whose} (${name})`,
      {
        hint: 'check that the credentials are complete, current and meant for this region and partition',
        cause: error,
      },
    );
  }
  return undefined;
}

function sessionError(error: unknown, call: ApiCall, place: ApiPlace): BridgeError | undefined {
  switch (errorName(error)) {
    case 'TargetNotConnected':
      return new BridgeError(
        'target.not-connected',
        `${call.on} is not connected to Session Manager in ${placeName(place)}`,
        {
          hint:
            'check the region and account, that the node runs and that its SSM agent is online: ' +
            describeCommand(call.target ?? call.on, place),
          cause: error,
        },
      );
    case 'InvalidDocument':
    case 'InvalidDocumentVersion':
      return new BridgeError(
        'target.unsuitable',
        `Session Manager in ${place.region} refused the document ${call.documentName ?? ''}`.trimEnd(),
        { hint: 'check the name of the document and that it is a session document', cause: error },
      );
    case 'InvalidInstanceId':
      return new BridgeError(
        'target.unsuitable',
        `Systems Manager cannot run commands on ${call.on} in ${placeName(place)}`,
        {
          hint: `check that the node is online: ${describeCommand(call.target ?? call.on, place)}`,
          cause: error,
        },
      );
    case 'DoesNotExistException':
      return new BridgeError('session.gone', `the service does not know ${call.on} (any more)`, {
        cause: error,
      });
    default:
      return undefined;
  }
}

function transportError(error: unknown, call: ApiCall, place: ApiPlace): BridgeError | undefined {
  const code = systemCode(error);
  if (httpStatus(error) !== undefined) return undefined;
  if (code !== undefined) {
    const named = networkError(place.host, error);
    if (named.code !== 'network.tls' || place.caFile === undefined) return named;
    return new BridgeError('network.tls', named.message, {
      hint: `the CA bundle ${place.caFile} is in force instead of the default roots; check that it covers this host`,
      cause: error,
    });
  }
  // The SDK's own time limits carry no code.
  if (errorName(error) === 'TimeoutError') return abandoned(call, error);
  return undefined;
}

function otherError(error: unknown, call: ApiCall): BridgeError {
  const name = errorName(error);
  if (isThrottled(error)) {
    return new BridgeError('api.throttled', `${call.action} was throttled (${name})`, {
      hint: 'too many calls in this account and region; try again, with fewer connections at once',
      cause: error,
    });
  }
  const status = httpStatus(error);
  const isAnswer = error instanceof Error && '$fault' in error;
  if (!isAnswer && status !== undefined) {
    return new BridgeError(
      'network.refused',
      `${call.action} got an answer that is not from AWS (HTTP ${status})`,
      {
        hint: 'a proxy, firewall or captive portal may be in the way; check the endpoint URL',
        cause: error,
      },
    );
  }
  const id = requestId(error);
  const details = [name, status === undefined ? '' : `HTTP ${status}`, id].filter(
    (part) => part !== '',
  );
  return new BridgeError(
    'api.failed',
    `${call.action} on ${call.on} failed (${details.join(', ')})${quoted(error)}`,
    {
      ...(status !== undefined && status >= 500
        ? { hint: 'the service has a problem; try again' }
        : {}),
      cause: error,
    },
  );
}

/** How to get valid credentials again; used where the kind of profile is not known. */
function renewal({ profile }: Pick<ApiPlace, 'profile'>): string {
  return profile === undefined
    ? 'get new ones; if they are in the environment, export them anew'
    : `get new ones; with IAM Identity Center: aws sso login --profile ${profile}`;
}

function placeName({ region, profile }: ApiPlace): string {
  return profile === undefined ? region : `${region} (profile ${profile})`;
}

function describeCommand(target: string, { region, profile }: ApiPlace): string {
  const as = profile === undefined ? '' : ` --profile ${profile}`;
  return `aws ssm describe-instance-information --filters Key=InstanceIds,Values=${target} --region ${region}${as}`;
}

/** The service's own words, which name the principal and the policy at fault; made safe for one line. */
function quoted(error: unknown): string {
  if (!(error instanceof Error) || !('$fault' in error)) return '';
  const text = oneLine(error.message).replace(/\.$/, '');
  return text === '' || text === error.name ? '' : `: ${text}`;
}

export function errorName(error: unknown): string {
  return error instanceof Error ? oneLine(error.name) : 'unknown error';
}

function metadata(error: unknown): Readonly<Record<string, unknown>> {
  if (typeof error !== 'object' || error === null || !('$metadata' in error)) return {};
  const found = error.$metadata;
  return typeof found === 'object' && found !== null ? { ...found } : {};
}

function httpStatus(error: unknown): number | undefined {
  const status = metadata(error)['httpStatusCode'];
  return typeof status === 'number' ? status : undefined;
}

function requestId(error: unknown): string {
  const id = metadata(error)['requestId'];
  return typeof id === 'string' ? `request ${oneLine(id)}` : '';
}
