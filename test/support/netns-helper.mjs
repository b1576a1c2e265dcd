// Runs inside a network namespace and joins it to the test's own by unix sockets, which namespaces do
// not separate.
//
//   netns-helper.mjs DIAL_SOCKET
//     A connection to DIAL_SOCKET sends "host port\n"; answered by "ok\n" and the bytes of a TCP
//     connection made in here, or by an error code and the end.
//   A connection that sends "expose PORT SOCKET\n" instead makes 127.0.0.1:PORT in here lead to the unix
//     socket SOCKET out there; answered by "ok\n".
import { connect, createServer } from 'node:net';

const [, , dialSocket] = process.argv;

function join(a, b) {
  a.pipe(b);
  b.pipe(a);
  const drop = () => {
    a.destroy();
    b.destroy();
  };
  a.on('error', drop);
  b.on('error', drop);
  a.on('close', () => b.destroySoon());
  b.on('close', () => a.destroySoon());
}

function dial(client, host, port) {
  const socket = connect({ host, port, allowHalfOpen: true });
  socket.once('error', (error) => client.end(`${error.code ?? 'failed'}\n`));
  socket.once('connect', () => {
    socket.removeAllListeners('error');
    socket.setNoDelay(true);
    client.write('ok\n');
    join(client, socket);
  });
  client.once('close', () => socket.destroy());
}

function expose(client, port, path) {
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (inside) => {
    const outside = connect({ path, allowHalfOpen: true });
    join(inside, outside);
  });
  server.once('error', (error) => client.end(`${error.code}\n`));
  server.listen(port, '127.0.0.1', () => client.end('ok\n'));
}

createServer({ allowHalfOpen: true }, (client) => {
  client.on('error', () => client.destroy());
  let line = '';
  const onReadable = () => {
    for (let byte = client.read(1); byte !== null; byte = client.read(1)) {
      const letter = byte.toString('latin1');
      if (letter !== '\n') {
        line += letter;
        continue;
      }
      client.off('readable', onReadable);
      const words = line.split(' ');
      if (words[0] === 'expose') expose(client, Number(words[1]), words[2]);
      else dial(client, words[0], Number(words[1]));
      return;
    }
  };
  client.on('readable', onReadable);
}).listen(dialSocket, () => process.stdout.write('ready\n'));
