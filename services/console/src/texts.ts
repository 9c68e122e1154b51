// Everything that the page says, in one place.

const client = (name: string): string => `“${name}”`

const CODES_5: Record<number, { text: string, todo: string }> = {
  0x80: { text: 'The broker refused without saying why (0x80).', todo: 'Its log has a line about it; see also Clients and its timeline.' },
  0x81: { text: 'The broker could not read a packet of this client (0x81).', todo: 'Something between changes the data, or the versions differ.' },
  0x82: { text: 'The broker saw a protocol error (0x82).', todo: 'Something between changes the data, or a property is not allowed here.' },
  0x83: { text: 'The broker refused (0x83: implementation specific error).', todo: 'Its log has a line about it.' },
  0x84: { text: 'The broker does not speak this version of MQTT at this listener (0x84).', todo: 'Choose the other version in the settings of the connection.' },
  0x85: { text: 'The broker does not accept this client identifier (0x85).', todo: 'Choose a shorter or another one.' },
  0x86: { text: 'The user name or the password is wrong (0x86).', todo: 'Type both again; they are those of the listener’s password file.' },
  0x87: { text: 'This is not allowed (0x87: not authorized).', todo: 'Without a user name: the listener admits no anonymous clients. With one: the ACL denies it.' },
  0x88: { text: 'The broker cannot serve now (0x88: server unavailable).', todo: 'Its routers or its store are away; Overview says which. Try again in a moment.' },
  0x89: { text: 'The broker is busy (0x89).', todo: 'Try again in a moment.' },
  0x8A: { text: 'This client is banned (0x8A).', todo: 'Bans has the reason and the end.' },
  0x8B: { text: 'The edge is being stopped (0x8B).', todo: 'Connect again: another edge takes over.' },
  0x8D: { text: 'The broker heard nothing for one and a half times the keep alive (0x8D).', todo: 'The browser slept, or the network was away.' },
  0x8E: { text: 'Another client connected with the same client identifier (0x8E: session taken over).', todo: 'Give each client an identifier of its own.' },
  0x8F: { text: 'The broker does not accept this topic filter (0x8F).', todo: 'Look at + and #: each stands alone in its level.' },
  0x90: { text: 'The broker does not accept this topic (0x90).', todo: 'A topic has no + and no #.' },
  0x93: { text: 'More messages were sent than the broker takes at once (0x93: receive maximum exceeded).', todo: 'Wait for acknowledgements.' },
  0x95: { text: 'The packet is larger than the broker accepts (0x95).', todo: 'Settings in force has the limit (maximum packet size).' },
  0x96: { text: 'Too many messages in a short time (0x96).', todo: 'Send more slowly, or have the limit raised.' },
  0x97: { text: 'A quota is used up (0x97).', todo: 'The queue, the store or the number of sessions is at its limit; see Overview.' },
  0x98: { text: 'Somebody disconnected this client (0x98: administrative action).', todo: 'Audit says who.' },
  0x99: { text: 'The payload is not what its format indicator says (0x99).', todo: 'Send text as UTF-8.' },
  0x9A: { text: 'The broker does not keep retained messages (0x9A).', todo: 'Send it without the retain flag.' },
  0x9B: { text: 'The listener does not serve this QoS (0x9B).', todo: 'Choose a lower QoS.' },
  0x9C: { text: 'The broker asks to use another server (0x9C).', todo: 'Connect again: the load balancer chooses another edge.' },
  0x9D: { text: 'The server has moved (0x9D).', todo: 'Ask whoever runs it for the new address.' },
  0x9E: { text: 'Shared subscriptions are not allowed here (0x9E).', todo: 'Subscribe without $share.' },
  0x9F: { text: 'Too many connections in a short time (0x9F).', todo: 'Wait a moment, then connect again.' },
  0xA1: { text: 'Subscription identifiers are not supported here (0xA1).', todo: '' },
  0xA2: { text: 'Filters with wildcards are not allowed here (0xA2).', todo: 'Subscribe to whole topics.' }
}

export const t = {
  product: 'Tidegate',
  loading: 'Loading …',
  actions: 'Actions',
  yes: 'yes',
  no: 'no',
  all: 'All',
  more: 'Show more',
  shown: (number: number) => `${number} shown; there are more`,
  close: 'Close',
  cancel: 'Cancel',
  save: 'Save',
  copy: 'Copy',
  copied: 'Copied.',
  retain: 'retained',
  retainFlag: 'Retain',
  skip: 'To the content',
  logOut: 'Log out',
  nothingHere: 'There is no such page',
  toOverview: 'To the overview',
  roles: { viewer: 'Viewer: may look', operator: 'Operator', admin: 'Admin' },
  states: { connected: 'Connected', offline: 'Offline' },
  theme: { label: 'Colours', auto: 'Auto', light: 'Light', dark: 'Dark' },
  nav: {
    label: 'Main', menu: 'Menu', watch: 'Watch', tryOut: 'Try', operate: 'Operate',
    overview: 'Overview', clients: 'Clients', topics: 'Topics', groups: 'Shared groups', socket: 'WebSocket client',
    nodes: 'Nodes', listeners: 'Listeners', bans: 'Bans', audit: 'Audit', settings: 'Settings in force', tokens: 'Tokens'
  },
  away: {
    console: 'The console does not answer.',
    status: (status: number) => `The console answered with status ${status}.`,
    overdue: 'An answer takes long: the store or a node may be away. What is shown is the last that was known; the page goes on by itself.',
    banner: 'The console does not answer. Clients of the broker are not affected. This page tries again every 2 seconds.'
  },
  gaps: {
    failed: 'Not all can be shown:',
    stale: 'What is shown is the last that was known; the page tries again.',
    again: 'The page tries again by itself.',
    missing: 'These do not answer:',
    missingMeans: 'What they have is missing here; the page asks them again.'
  },
  login: {
    title: 'Tidegate', lead: 'Log in to see and steer the broker.',
    tokenLead: 'tidegate serve prints an address with the first token when it starts.',
    how: 'How to log in', withPassword: 'Password', withToken: 'Token',
    user: 'User name', password: 'Password', token: 'Token', enter: 'Log in', busy: 'Logging in …'
  },
  overview: {
    lead: 'Whether the broker is well, and the last hour.',
    ok: 'Well', degraded: 'Degraded', down: 'Down',
    first: 'What to do first', well: 'Everything is well: all nodes and the store answer, and nothing needs you.',
    tiles: {
      connections: 'Connections', sessions: 'Durable sessions', in: 'Messages in', out: 'Messages out', subscriptions: 'Subscriptions',
      retained: 'Retained messages', perSecond: 'per second'
    },
    curves: {
      in: 'Messages in per second', out: 'Messages out per second', connections: 'Connections and sessions', connected: 'connected',
      sessions: 'sessions', queued: 'Queued messages', messages: 'queued or in flight', lost: 'Dropped and refused per second', dropped: 'dropped',
      refused: 'refused', store: 'Round trip to the store', latency: 'mean', waiting: 'Curves come with the second sample, in 10 seconds.'
    },
    last: 'What happened last',
    dropped: 'Dropped in 5 minutes', noneDropped: 'No message was dropped.',
    refused: 'Refused in 5 minutes', noneRefused: 'No connection was refused.',
    store: {
      title: 'Store', away: 'The store does not answer.', url: 'Address', kind: 'Server', durability: 'Durability', latency: 'Round trip',
      memory: 'Memory', of: (limit: string) => ` of ${limit}`, replicas: 'Replicas', lag: (lag: string) => `, ${lag} behind`, appendOnly: 'Append-only file',
      fine: 'on', failing: 'on, but failing', off: 'off: a restart of the store loses sessions', operations: 'Operations', perSecond: 'per second'
    },
    resource: {
      title: (name: string) => `MqttBroker ${name}`, seen: 'Written', condition: 'Condition', status: 'Status', reason: 'Reason', since: 'Since',
      message: 'Message'
    }
  },
  clients: {
    lead: 'All clients of the broker: those that are connected, and durable sessions that wait for theirs.',
    client: 'Client', state: 'State', user: 'User', address: 'Address', listener: 'Listener', at: 'Where', version: 'Version',
    subscriptions: 'Subscriptions', queued: 'Queued', since: 'Connected', all: 'All', anonymous: 'anonymous', slow: 'slow',
    ends: 'session ends', search: 'Client identifier begins with …', mountPoint: (name: string) => `in ${name}`,
    none: 'No clients yet', noneHint: 'Connect one: the WebSocket client of this page is the quickest.',
    noMatch: 'No client matches', noMatchHint: 'The search compares the beginning of the client identifier; upper and lower case differ.'
  },
  client: {
    lead: (user: string, mountPoint: string) => `User ${user}${mountPoint ? `, mount point ${mountPoint}` : ''}`,
    gone: 'There is no such client', goneHint: 'It is not connected and has no durable session. Its timeline below is what is remembered of it.',
    connection: {
      title: 'Connection', none: 'Not connected.', edge: 'Edge', address: 'Address', listener: 'Listener', version: 'Protocol', since: 'Since',
      keepAlive: 'Keep alive', noKeepAlive: 'off', idle: 'Last packet', window: 'Window', reading: 'Reading', slow: 'too slow',
      windowValue: (flight: number, maximum: number | null | undefined, waiting: number) =>
        `${flight}${maximum ? ` of ${maximum}` : ''} in flight${waiting ? `, ${waiting} waiting` : ''}`
    },
    session: {
      title: 'Session', none: 'Not durable: it ends with the connection.', expiry: 'Expiry interval', never: 'never ends', ends: 'Ends',
      whileConnected: 'not while connected', owner: 'Owner', subscriptions: 'Subscriptions', queue: 'Queue', oldest: ', the oldest from ', awaiting: 'Awaiting PUBCOMP', epoch: 'Epoch'
    },
    subscriptions: {
      title: 'Subscriptions', filter: 'Topic filter', options: 'Options', identifier: 'Identifier', durable: 'durable', noLocal: 'no local',
      asPublished: 'retain as published', handling: ['', 'retained only if new', 'no retained messages'] as string[],
      none: 'No subscriptions', noneHint: 'So it gets no messages at all.'
    },
    queue: {
      title: 'Queue', none: 'The queue is empty', topic: 'Topic', payload: 'Payload', size: 'Size', queued: 'Queued', expires: 'Expires', sent: 'State', wasSent: 'sent', waits: 'waits'
    },
    flight: { title: 'In flight', topic: 'Topic', packet: 'Packet identifier', awaits: 'Awaits' },
    will: {
      title: 'Will', topic: 'Topic', payload: 'Payload', empty: '(empty)', delay: 'Delay', due: 'Published', pending: 'being published', whenLost: 'when the connection is lost'
    },
    why: { title: 'Why it gets nothing, or may not', topic: 'On this topic? plant/line-1', none: 'Nothing stands in the way: it gets what it has subscribed to.' },
    events: { title: 'Timeline' },
    actions: {
      disconnect: 'Disconnect', clear: 'Clear queue', end: 'End session', ban: 'Ban',
      disconnectTitle: (name: string) => `Disconnect ${client(name)}?`,
      disconnectEffects: (durable: boolean, will: boolean) => [
        'Its connection is closed (MQTT 5: reason 0x98). Most clients connect again at once.',
        durable ? 'Its session stays: subscriptions and queue are kept until it expires.' : 'Its session is not durable: its subscriptions end with the connection.',
        ...(will ? ['Its will is published by its rules.'] : [])
      ],
      disconnected: (name: string) => `${client(name)} is disconnected.`,
      clearTitle: (name: string) => `Clear the queue of ${client(name)}?`,
      clearEffects: (length: number) => [
        length === 1 ? '1 queued message is deleted. It cannot be brought back.' : `${length} queued messages are deleted. They cannot be brought back.`,
        'Subscriptions and the connection stay.'
      ],
      cleared: (name: string) => `The queue of ${client(name)} is cleared.`,
      endTitle: (name: string) => `End the session of ${client(name)}?`,
      endEffects: (subscriptions: number, queued: number, connected: boolean) => [
        `Its subscriptions (${subscriptions}) and its queued messages (${queued}) are deleted. They cannot be brought back.`,
        ...(connected ? ['It is connected and will be disconnected; its will is not published.'] : ['Its will, if one is due, is not published.']),
        'When it connects again, it begins with a new session.'
      ],
      ended: (name: string) => `The session of ${client(name)} has ended.`
    }
  },
  events: {
    edge: (name: string) => `at ${name}`, from: (address: string) => `from ${address}`, listener: (name: string) => `listener ${name}`, user: (name: string) => `user ${name}`,
    none: 'Nothing is remembered', noneHint: 'Events are kept for the last 50 of a client, for a limited time.',
    kinds: {
      connected: 'Connected', taken_over: 'Taken over by another connection', refused: 'Refused', disconnected: 'Disconnected',
      keep_alive_expired: 'Keep alive expired', subscribed: 'Subscribed', subscribe_denied: 'Subscription denied', publish_denied: 'Publishing denied',
      dropped: 'Messages dropped', quota: 'Limit reached', session_expired: 'Session expired', session_ended: 'Session ended',
      will_published: 'Will published', shed: 'Shed to another edge', drained: 'Disconnected by a drain', banned: 'Banned'
    } as Record<string, string>
  },
  payload: {
    view: 'View', views: { text: 'Text', json: 'JSON', hex: 'Hex', cbor: 'CBOR', image: 'Image' }, empty: 'The payload is empty.', emptyShort: '(empty)',
    image: 'The payload as an image', cut: (shown: number) => `the first ${shown} bytes`
  },
  topics: {
    what: 'What to look at', retained: 'Retained', sample: 'Live sample', receivers: 'Who gets it',
    leads: {
      retained: 'Retained messages by topic: what a new subscriber gets first.',
      sample: 'What is being published now. The sample is limited, so that it costs the broker little.',
      receivers: 'Which clients get a message on a topic, through which subscription, and what the ACL says.'
    }
  },
  retained: {
    title: 'Tree', none: 'No retained messages', noneHint: 'A message published with the retain flag stays here.', emptyLevel: '(empty level)',
    below: (name: string) => `Topics below ${name}`, moreLevels: 'There are more levels than are listed; type the topic above.', partial: 'Large tree: the numbers are at least so.',
    topic: 'Topic', show: 'Show', choose: 'Choose a topic', chooseHint: 'Bold levels have a retained message of their own.', received: 'Received', expires: 'Expires', never: 'never',
    contentType: 'Content type', responseTopic: 'Response topic', who: 'Who gets it', gone: 'No retained message here', goneHint: 'It was deleted or has expired, or never was one.',
    delete: 'Delete', deleteTitle: 'Delete this retained message?', deleteEffects: (topic: string) => [
      `The retained message of ${topic} is deleted. New subscribers get none.`, 'Clients that have it already keep it; they are sent nothing.'],
    deleted: (topic: string) => `The retained message of ${topic} is deleted.`,
    deleteMany: 'Delete by filter', deleteAction: 'Delete all that match', filter: 'Topic filter', filterHint: '+ for one level, # for all below.',
    deleteManyEffects: 'All retained messages whose topic matches are deleted; they cannot be brought back. It can be stopped, what is deleted by then stays deleted.',
    progressLabel: 'Progress of the deletion', stop: 'Stop', stopped: 'The deletion is being stopped.',
    progress: (state: string, filter: string, deleted: string) => ({
      running: `Deleting what matches ${filter}: ${deleted} so far.`, done: `Done: ${deleted} deleted.`,
      stopped: `Stopped: ${deleted} deleted.`, failed: `Failed: ${deleted} deleted before.` } as Record<string, string>)[state] ?? state
  },
  sample: {
    filter: 'Topic filter', start: 'Start', stop: 'Stop', none: 'Nothing yet', noneHint: 'Messages that match appear here as they are published.',
    lost: 'The sample was interrupted; the page opens it again by itself.',
    seen: (seen: string, skipped: string) => `${seen} matched${skipped ? `, ${skipped} left away` : ''}`
  },
  receivers: {
    topic: 'Topic', ask: 'Who gets it?', through: 'Through', gets: 'ACL', how: 'How',
    verdicts: { allowed: 'allowed', denied: 'denied', unknown: 'not known' },
    denied: 'gets nothing: the ACL denies it', now: (edge: string) => `at once, at ${edge}`, atOnce: 'at once', later: 'queued until it connects', never: 'gets nothing: offline and not durable',
    title: (clients: string) => `${clients} would get it`, none: 'Nobody has subscribed to this topic', noneHint: 'A message is dropped for lack of subscribers. Upper and lower case, and each /, count.',
    more: 'There are more receivers than are listed.', groups: 'Shared groups: one member of each gets it'
  },
  groups: {
    lead: 'Groups of shared subscriptions: each message goes to one member.', group: 'Group', filter: 'Topic filter', members: 'Members', connected: 'Connected',
    none: 'No shared subscriptions', noneHint: 'A client makes one by subscribing to $share/GROUP/FILTER.', edge: 'Edge', durable: 'Durable', unacknowledged: 'Unacknowledged',
    of: 'Shares', order: 'the next one to be given a message first', noMembers: 'The group has no members any more', more: 'There are more members than are listed.',
    allOffline: 'No member is connected: messages wait in the queue of one of them, or are dropped if none is durable.'
  },
  socket: {
    lead: 'An MQTT client in this browser: it connects to a listener of this broker, or to any other WebSocket address.',
    thisBroker: 'This broker', connections: 'Connections', add: 'New', none: 'No saved connections', noneHint: 'New makes one; it is kept in this browser.', choose: 'No connection is chosen',
    chooseHint: 'Make one with New.', edit: (name: string) => `Settings of ${name}`, settings: 'Settings', connect: 'Connect', disconnect: 'Disconnect', since: 'connected', present: 'session was there',
    assigned: 'identifier from the broker', notConnected: 'Not connected.',
    states: { idle: 'Not connected', connecting: 'Connecting …', connected: 'Connected', failed: 'Failed', waiting: 'Connecting again …' },
    forget: 'Delete', forgetTitle: (name: string) => `Delete the connection ${client(name)}?`,
    forgetEffects: ['It is disconnected, and its settings are deleted from this browser.', 'A durable session in the broker stays until it expires.'], forgotten: (name: string) => `${client(name)} is deleted.`,
    subscriptions: 'Subscriptions', filter: 'Topic filter', subscribe: 'Subscribe', unsubscribe: (filter: string) => `Unsubscribe from ${filter}`, refused: 'refused',
    noSubscriptions: 'No subscriptions', noSubscriptionsHint: 'Each gets a colour; its messages carry it.'
  },
  connection: {
    new: 'New connection', title: (name: string) => `Connection ${client(name)}`, name: 'Name', namePlaceholder: 'Plant 1', version: 'Version', url: 'Address',
    urlHint: 'ws:// or wss://, with the path of the listener (usually /mqtt).', user: 'User name', password: 'Password', keepPassword: 'Keep the password in this browser',
    clientId: 'Client identifier', clientIdHint: 'One for each client: a second one with the same takes over.', cleanStart: 'Clean start', cleanSession: 'Clean session', more: 'Session and limits',
    keepAlive: 'Keep alive (s)', keepAliveHint: '0: off', expiry: 'Session expiry (s)', expiryHint: 'Empty: ends with the connection; 4294967295: never.', receiveMaximum: 'Receive maximum', maximumPacket: 'Maximum packet size (bytes)',
    will: 'Will', willTopic: 'Topic of the will', willHint: 'Empty: no will.', willPayload: 'Payload', willDelay: 'Will delay (s)'
  },
  pairs: { title: 'User properties', name: 'Name', value: 'Value', add: 'Add property', remove: 'Remove property' },
  publish: {
    title: 'Publish', topic: 'Topic', payload: 'Payload', format: 'Payload is', formats: { text: 'Text' }, send: 'Publish', properties: 'Properties',
    expiry: 'Message expiry (s)', contentType: 'Content type', responseTopic: 'Response topic', correlation: 'Correlation data',
    noJson: (why: string) => `This is no JSON: ${why}`, noHex: 'Two hexadecimal digits for each byte.', noBase64: 'This is no Base64.'
  },
  messages: {
    title: 'Messages', pause: 'Pause', resume: 'Go on', resumeHeld: (held: string) => `Go on (${held} held)`, export: 'Export', clear: 'Clear', filter: 'Filter by text, or by topic filter with + or #',
    shown: (number: string) => `${number} shown`, none: 'No messages yet', noneHint: 'Subscribe, and they appear here, the newest first.', noMatch: 'No message matches', noMatchHint: 'The filter looks at topics and at payloads that are text.',
    sent: '↑', message: 'Message', sentMessage: 'Published message', at: 'Time', duplicate: 'sent again (DUP)', retained: 'Retained',
    properties: {
      payloadFormatIndicator: 'Payload is UTF-8', messageExpiryInterval: 'Expires in (s)', contentType: 'Content type', responseTopic: 'Response topic',
      correlationData: 'Correlation data', userProperties: 'User properties', subscriptionIdentifier: 'Subscription identifier', topicAlias: 'Topic alias'
    } as Record<string, string>
  },
  failures: {
    again: 'Connecting again in 3 seconds.',
    lost: { text: 'The connection was lost.', todo: '' },
    notAUrl: { text: 'This is no address.', todo: 'It looks like ws://broker.example.com:8083/mqtt.' },
    noTcp: (scheme: string) => ({ text: `A browser cannot open ${scheme}//.`, todo: 'It can only use WebSocket listeners: ws:// or wss://.' }),
    noHttp: (url: string) => ({ text: 'This is the address of a web page.', todo: `Perhaps ${url} is meant.` }),
    mixed: { text: 'This page came by HTTPS, and from such a page a browser opens no ws://.', todo: 'Use a wss:// listener.' },
    subprotocol: (host: string) => ({ text: `${host} opens WebSockets, but not with the subprotocol mqtt.`, todo: 'It is no MQTT listener, or a proxy before it removes the header Sec-WebSocket-Protocol.' }),
    path: (path: string, open: string) => ({ text: `Nothing answers at the path ${path}.`, todo: `The listener answers at ${open}: change the address.` }),
    notWebSocket: (name: string, protocol: string, other: string | undefined) => ({
      text: `The port belongs to the listener ${name}, which speaks MQTT over ${protocol === 'tls' ? 'TLS' : 'TCP'}, not over WebSocket.`,
      todo: other ? `From a browser use ${other}.` : 'Add a ws or wss listener for browsers.' }),
    plainListener: (name: string, url: string) => ({ text: `The listener ${name} speaks no TLS.`, todo: `Use ${url}.` }),
    secureListener: (name: string, url: string) => ({ text: `The listener ${name} speaks TLS only.`, todo: `Use ${url}.` }),
    expired: (name: string) => ({ text: `The certificate of the listener ${name} has expired.`, todo: 'Renew it; Listeners shows all certificates.' }),
    wrongName: (host: string, names: string) => ({ text: `The certificate is not for ${host}, but for ${names}.`, todo: 'Use one of these names, or a certificate with this one.' }),
    untrusted: (host: string) => ({
      text: `No secure connection to ${host}: nothing answers there, or this browser does not trust the certificate.`,
      todo: `Open https://${host}/ in a new tab: it shows the reason. A test certificate can be accepted there, and then works here too.` }),
    noAnswer: (host: string) => ({ text: `${host} does not answer.`, todo: 'A firewall or a wrong address: nothing came back in time.' }),
    unreachable: (host: string) => ({ text: `Nothing accepts WebSockets at ${host}.`, todo: 'Is the port that of a ws listener, and may this browser reach it? Listeners has all ports.' }),
    noConnack: { text: 'The WebSocket is open, but no CONNACK came in 10 seconds.', todo: 'Is it an MQTT broker? If it is this one, Overview says whether it can serve.' },
    closedBeforeConnack: { text: 'The WebSocket was open, and was closed before CONNACK.', todo: 'The broker refused the CONNECT without an answer; its log has the reason.' },
    unknownCode: (code: number) => ({ text: `The broker answered with reason code 0x${code.toString(16).toUpperCase().padStart(2, '0')}.`, todo: '' }),
    codes5: CODES_5,
    codes3: {
      1: { text: 'The broker does not speak this version of MQTT at this listener (1).', todo: 'Choose the other version in the settings of the connection.' },
      2: { text: 'The broker does not accept this client identifier (2).', todo: 'Choose another one; without clean session it must not be empty.' },
      3: { text: 'The broker cannot serve now (3: server unavailable).', todo: 'Its routers or its store are away; Overview says which. Try again in a moment.' },
      4: { text: 'The user name or the password is wrong (4).', todo: 'Type both again; they are those of the listener’s password file.' },
      5: { text: 'This is not allowed (5: not authorized).', todo: 'A wrong password, no user name where one is needed, or a ban.' }
    } as Record<number, { text: string, todo: string }>
  },
  nodes: {
    lead: 'Edges have the connections of clients; routers have the store. A drained edge is stopped and started again.', node: 'Node', role: 'Role',
    roles: { edge: 'Edge', router: 'Router', serve: 'Edge and router' } as Record<string, string>, ready: 'Ready', notReady: 'Not ready', draining: 'Draining', drained: 'Drained',
    cpu: 'CPU', memory: 'Memory', lag: 'Event loop lag', version: 'Version', uptime: 'Running for', address: 'Admin address', configuration: 'The changed configuration is not in force:', clock: 'Clock:',
    restart: 'Changed, and waiting for a restart:', none: 'No node answers', noneHint: 'Are console.edges and console.routers right?',
    drain: 'Drain', drainTitle: (name: string) => `Drain ${name}?`, drainEffects: (clients: string) => [
      `It accepts no new connections, and disconnects its ${clients} at the rate of drain.rate. They connect again elsewhere.`,
      'All acknowledgements are sent before. Durable sessions lose nothing.',
      'A drain cannot be undone: afterwards the process is stopped and started again.'],
    drainStarted: (name: string) => `${name} drains.`, drainProgress: (name: string) => `Drain of ${name}`,
    drainState: (gone: string, all: string, left: string) => `${gone} of ${all} clients are disconnected, ${left} are left.`, drainDone: 'All clients are disconnected. The process can be stopped.',
    shed: 'Shed', shedTitle: (name: string) => `Shed clients of ${name}`, shedNumber: 'How many clients', shedHint: (clients: string) => `It has ${clients} now.`,
    shedEffects: ['So many clients are disconnected at the rate of drain.rate, with “use another server”; they connect again, and the load balancer chooses where.', 'The node goes on serving the others.'],
    shedStarted: (name: string) => `${name} sheds clients.`, sheddingNow: (clients: string) => `${clients} are still to be shed.`
  },
  listeners: {
    lead: 'Where clients connect, and until when the certificates are valid.', title: 'Listeners', protocol: 'Protocol', addresses: 'Addresses', paths: (paths: string) => `path ${paths}`, mountPoint: 'Mount point',
    connections: 'Connections', of: (limit: string) => `of ${limit}`, anonymous: 'Anonymous', allowed: 'allowed', refused: 'Refused', certificates: 'Certificates', none: 'No listeners',
    names: 'Names', what: 'Kind', ends: 'Valid', file: 'File', expired: (age: string) => `expired ${age} ago`, left: (age: string) => `${age} left`,
    noCertificates: 'No certificates', noCertificatesHint: 'No listener has TLS: passwords cross the network as they are.'
  },
  bans: {
    lead: 'Who may not connect. A ban is in force on every edge within a second, running connections included.', add: 'New ban', title: 'Ban', what: 'Kind', who: 'Who',
    kinds: { client: 'Client', user: 'User', address: 'Address' }, hints: { client: 'The client identifier.', user: 'The user name.', address: 'An address or a network: 10.1.2.3 or 10.1.0.0/16.' },
    effects: {
      client: ['A running connection of this client is closed, and CONNECT is refused (0x8A).', 'Its session stays; it goes on queueing until it expires.'],
      user: ['All running connections of this user are closed, and CONNECT is refused (0x8A).', 'Sessions stay; they go on queueing until they expire.'],
      address: ['All running connections from there are closed, and new ones are refused.', 'Behind NAT or a proxy many clients may share an address.']
    },
    reason: 'Reason', reasonHint: 'For those who read this list later.', until: 'For', lengths: [['600', '10 minutes'], ['3600', '1 hour'], ['86400', '1 day'], ['604800', '1 week'], ['', 'ever']] as [string, string][],
    ban: 'Ban', banned: (name: string) => `${client(name)} is banned.`, ends: 'Ends', never: 'never', by: 'By', lift: 'Lift', liftTitle: (name: string) => `Lift the ban of ${client(name)}?`,
    liftEffects: (name: string) => [`${client(name)} may connect again, within a second.`], lifted: (name: string) => `The ban of ${client(name)} is lifted.`,
    none: 'Nobody is banned', noneHint: 'Clients that connect again and again can be banned by a rule: limits.flapping.'
  },
  tokens: {
    lead: 'For programs that use the API, and for tidegate ctl: Authorization: Bearer TOKEN.', add: 'New token', name: 'Name', nameHint: 'What it is for; the audit has it.', role: 'Role',
    roles: [['viewer', 'Viewer: reads'], ['operator', 'Operator: disconnects, publishes, drains'], ['admin', 'Admin: also bans, ends sessions, makes tokens']] as ['viewer' | 'operator' | 'admin', string][],
    length: 'Valid for', lengths: [['3600', '1 hour'], ['86400', '1 day'], ['2592000', '30 days'], ['31536000', '1 year'], ['', 'ever']] as ['3600' | '86400' | '2592000' | '31536000' | '', string][],
    make: 'Make', once: 'It is shown only now: copy it to where it is used.', made: 'Made', fromFile: 'from the file of tokens', ends: 'Ends', never: 'never', delete: 'Delete',
    deleteTitle: (name: string) => `Delete the token ${client(name)}?`, deleteEffects: ['Programs that use it are refused from now on.', 'Sessions that it has opened in a browser end.'],
    deleted: (name: string) => `The token ${client(name)} is deleted.`, none: 'No tokens', noneHint: 'New token makes one.'
  },
  audit: {
    lead: 'Every change that was made through the API, and every attempt: who, what, when, from where.', when: 'When', who: 'Who', what: 'What', outcome: 'Outcome', from: 'From',
    none: 'Nothing was changed yet', noneHint: 'Changes made through this page and through the API are listed here.'
  },
  settings: {
    lead: 'What the nodes run with. It is changed in the configuration file, or in the MqttBroker resource.', which: 'Which settings', changed: 'Changed', all: 'All', search: 'Search in names and descriptions',
    key: 'Setting', value: 'In force', default: 'Default', isDefault: 'is the default', nothing: '(empty)', restart: (node: string) => `${node}: changed, and waiting for a restart:`,
    none: 'No such setting', noneChanged: 'Among those that differ from their default. All shows the others.', noneFound: 'No name and no description has this text.'
  }
}
