import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ApiError } from './api-error.ts';
import type { ApiTable, Call } from './api.ts';
import type { Service } from './service.ts';
import { optionalText, requiredText } from './ssm.ts';
import type { CommandRecord, CommandStatus, NodeOptions } from './types.ts';

/** Limits on what GetCommandInvocation returns. */
const STDOUT_CHARACTERS = 24_000;
const STDERR_CHARACTERS = 8_000;

interface Command extends CommandRecord {
  status: CommandStatus;
  detail: string;
  exitCode: number;
  stdout: string;
  stderr: string;
  readonly visibleAt: number;
}

/** Run Command with the document AWS-RunShellScript; scripts run for real, where the node says. */
export class RunCommands {
  readonly commands: Command[] = [];
  readonly #service: Service;
  readonly #directory: string;
  readonly #children = new Set<ChildProcess>();
  readonly #timers = new Set<NodeJS.Timeout>();

  constructor(service: Service, directory: string) {
    this.#service = service;
    this.#directory = directory;
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  }

  readonly operations: ApiTable['operations'] = {
    SendCommand: (call) => this.#send(call),
    GetCommandInvocation: (call) => this.#get(call),
    ListCommandInvocations: (call) => this.#list(call),
    CancelCommand: (call) => this.#cancel(call),
  };

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const child of this.#children) kill(child);
  }

  #send(call: Call): object {
    const documentName = requiredText(call, 'DocumentName');
    if (documentName !== 'AWS-RunShellScript') {
      throw new ApiError('InvalidDocument', `Document ${documentName} does not exist`);
    }
    const instanceIds = instancesOf(call);
    const parameters = listsOf(call.input['Parameters']);
    const script = parameters['commands'];
    const unknown = Object.keys(parameters).find(
      (name) => !['commands', 'executionTimeout', 'workingDirectory'].includes(name),
    );
    if (script === undefined || script.length === 0 || unknown !== undefined) {
      throw new ApiError('InvalidParameters', `Parameters are wrong: ${unknown ?? 'no commands'}`);
    }
    const timeoutSeconds = call.input['TimeoutSeconds'] ?? 3600;
    if (typeof timeoutSeconds !== 'number' || timeoutSeconds < 30 || timeoutSeconds > 2_592_000) {
      throw new ApiError(
        'ValidationException',
        "Value at 'timeoutSeconds' failed to satisfy constraint",
      );
    }
    const comment = optionalText(call, 'Comment') ?? '';
    if (comment.length > 100) throw new ApiError('ValidationException', 'comment is too long');
    const nodes = instanceIds.map((id) => this.#nodeFor(id));
    const commandId = randomUUID();
    for (const node of nodes) {
      const command: Command = {
        commandId,
        instanceId: node.id,
        comment,
        script,
        status: 'Pending',
        detail: 'Pending',
        exitCode: -1,
        stdout: '',
        stderr: '',
        visibleAt: performance.now() + this.#service.settings.invocationDelayMs,
      };
      this.commands.push(command);
      this.#service.log(`command ${commandId} for ${node.id}: ${comment}`);
      const { offline, startDelayMs = 0, deliveryTimeoutMs } = node.runCommand ?? {};
      if (offline === true) {
        this.#later(deliveryTimeoutMs ?? timeoutSeconds * 1000, () => {
          this.#finish(command, 'TimedOut', 'Delivery Timed Out', -1);
        });
      } else {
        const limit = Number(parameters['executionTimeout']?.[0] ?? '3600');
        const directory = parameters['workingDirectory']?.[0];
        this.#later(startDelayMs, () => {
          this.#run(command, node, limit * 1000, directory);
        });
      }
    }
    return {
      Command: {
        CommandId: commandId,
        DocumentName: documentName,
        Comment: comment,
        InstanceIds: instanceIds,
        Status: 'Pending',
        StatusDetails: 'Pending',
        RequestedDateTime: this.#service.clock.now() / 1000,
        TargetCount: nodes.length,
      },
    };
  }

  #nodeFor(id: string): NodeOptions {
    const node = this.#service.nodes.get(id);
    if (node?.runCommand?.denied === true) {
      throw new ApiError(
        'AccessDeniedException',
        `User: arn:aws:sts::123456789012:assumed-role/emulator/user is not authorized to perform: ssm:SendCommand on resource: arn:aws:ssm:${this.#service.settings.region}::document/AWS-RunShellScript because no identity-based policy allows the ssm:SendCommand action`,
        { capitalMessage: true },
      );
    }
    if (node === undefined || node.online === false) {
      throw new ApiError(
        'InvalidInstanceId',
        `Instances [[${id}]] not in a valid state for account 123456789012`,
      );
    }
    return node;
  }

  #run(command: Command, node: NodeOptions, limitMs: number, directory: string | undefined): void {
    if (command.status !== 'Pending') return;
    command.status = 'InProgress';
    command.detail = 'InProgress';
    const { env = {}, cwd = this.#directory, wrap = [] } = node.runCommand ?? {};
    const file = join(this.#directory, `${command.commandId}-${node.id}.sh`);
    writeFileSync(file, `${command.script.join('\n')}\n`, { mode: 0o700 });
    const argv = [...wrap, 'sh', file];
    const child = spawn(argv[0]!, argv.slice(1), {
      cwd: directory ?? cwd,
      env: { PATH: process.env['PATH'], ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // its own process group, so that a timeout takes all of it
    });
    this.#children.add(child);
    child.stdout.on('data', (chunk: Buffer) => {
      command.stdout = append(command.stdout, chunk, STDOUT_CHARACTERS);
    });
    child.stderr.on('data', (chunk: Buffer) => {
      command.stderr = append(command.stderr, chunk, STDERR_CHARACTERS);
    });
    let isTimedOut = false;
    const timer = this.#later(limitMs, () => {
      isTimedOut = true;
      kill(child);
    });
    child.on('error', (error) => {
      command.stderr += error.message;
      this.#finish(command, 'Failed', 'Failed', 1);
    });
    child.on('close', (code) => {
      clearTimeout(timer);
      this.#timers.delete(timer);
      this.#children.delete(child);
      if (isTimedOut) this.#finish(command, 'TimedOut', 'Execution Timed Out', 137);
      else if (code === 0) this.#finish(command, 'Success', 'Success', 0);
      else this.#finish(command, 'Failed', 'Failed', code ?? 1);
    });
  }

  #finish(command: Command, status: CommandStatus, detail: string, exitCode: number): void {
    if (command.status !== 'Pending' && command.status !== 'InProgress') return;
    Object.assign(command, { status, detail, exitCode });
    this.#service.log(`command ${command.commandId} on ${command.instanceId}: ${detail}`);
    this.#service.changed();
  }

  #get(call: Call): object {
    const id = requiredText(call, 'CommandId');
    const instanceId = requiredText(call, 'InstanceId');
    const command = this.commands.find(
      (known) => known.commandId === id && known.instanceId === instanceId,
    );
    // Right after SendCommand the real service does not know the invocation yet.
    if (command === undefined || performance.now() < command.visibleAt) {
      throw new ApiError('InvocationDoesNotExist', '');
    }
    const isOver = command.status !== 'Pending' && command.status !== 'InProgress';
    return {
      CommandId: id,
      InstanceId: instanceId,
      Comment: command.comment,
      DocumentName: 'AWS-RunShellScript',
      PluginName: 'aws:runShellScript',
      ResponseCode: command.exitCode,
      Status: command.status,
      StatusDetails: command.detail,
      StandardOutputContent: isOver ? command.stdout : '',
      StandardErrorContent: isOver ? command.stderr : '',
      StandardOutputUrl: '',
      StandardErrorUrl: '',
    };
  }

  #list(call: Call): object {
    const id = optionalText(call, 'CommandId');
    const instanceId = optionalText(call, 'InstanceId');
    const isDetailed = call.input['Details'] === true;
    const found = this.commands.filter(
      (command) =>
        (id === undefined || command.commandId === id) &&
        (instanceId === undefined || command.instanceId === instanceId) &&
        performance.now() >= command.visibleAt,
    );
    return {
      CommandInvocations: found.map((command) => ({
        CommandId: command.commandId,
        InstanceId: command.instanceId,
        Comment: command.comment,
        DocumentName: 'AWS-RunShellScript',
        Status: command.status,
        StatusDetails: command.detail,
        CommandPlugins: isDetailed
          ? [
              {
                Name: 'aws:runShellScript',
                Status: command.status,
                ResponseCode: command.exitCode,
                Output: command.stdout.slice(0, 2500),
              },
            ]
          : [],
      })),
    };
  }

  #cancel(call: Call): object {
    const id = requiredText(call, 'CommandId');
    for (const command of this.commands) {
      if (command.commandId === id) this.#finish(command, 'Cancelled', 'Cancelled', -1);
    }
    return {};
  }

  #later(delayMs: number, action: () => void): NodeJS.Timeout {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, delayMs);
    this.#timers.add(timer);
    return timer;
  }
}

function instancesOf(call: Call): readonly string[] {
  const ids = call.input['InstanceIds'];
  if (Array.isArray(ids) && ids.every((id): id is string => typeof id === 'string')) {
    if (ids.length > 0) return ids;
  }
  const targets: unknown = call.input['Targets'];
  for (const target of Array.isArray(targets) ? (targets as readonly unknown[]) : []) {
    const fields: Readonly<Record<string, unknown>> =
      typeof target === 'object' && target !== null ? { ...target } : {};
    const values = fields['Values'];
    if (String(fields['Key']).toLowerCase() === 'instanceids' && Array.isArray(values)) {
      return values.map(String);
    }
  }
  throw new ApiError('ValidationException', 'no instance ids');
}

function listsOf(given: unknown): Readonly<Record<string, readonly string[]>> {
  if (typeof given !== 'object' || given === null) return {};
  const lists: Record<string, string[]> = {};
  for (const [name, value] of Object.entries(given)) {
    if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
      throw new ApiError('SerializationException', 'Unexpected field type: Parameters');
    }
    lists[name] = value;
  }
  return lists;
}

function append(text: string, chunk: Buffer, limit: number): string {
  if (text.length >= limit) return text;
  return (text + chunk.toString()).slice(0, limit);
}

function kill(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // already gone
  }
}
