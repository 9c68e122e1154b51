import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import { may, post, remove } from '../api/client'
import type { BrokerEvent, ClientDetail, Connection, Finding, InFlight, QueueEntry, Session, Subscription, Will } from '../api/types'
import { useApi, useList } from '../api/use'
import { bytes, count, duration, moment, plural } from '../format'
import { fromBase64, preview } from '../mqtt/payload'
import { topicProblem } from '../mqtt/topics'
import { go, href, route } from '../route'
import { t } from '../texts'
import { confirmed } from '../ui/act'
import { Age, Badge, Button, Card, Code, Empty, Facts, Gaps, Heading, Loading, More, Table, type Column } from '../ui/kit'
import { BanDialog } from './bans'
import { since, StateBadge, useSettled } from './clients'
import { Findings } from './overview'
import { Timeline } from './timeline'

const FOREVER = 0xFFFFFFFF

function ConnectionCard({ connection }: { connection: Connection | null | undefined }): JSX.Element {
  const texts = t.client.connection
  return (
    <Card title={texts.title}>
      {!connection ? <p class="quiet-text">{texts.none}</p> : (
        <Facts items={[
          [texts.edge, connection.edge],
          [texts.address, connection.address],
          [texts.listener, `${connection.listener} (${connection.transport})`],
          [texts.version, connection.version],
          [texts.since, <Age at={since(connection)} />],
          [texts.keepAlive, connection.keep_alive_s === 0 ? texts.noKeepAlive : duration(connection.keep_alive_s)],
          [texts.idle, duration(connection.idle_s)],
          [texts.window, texts.windowValue(connection.in_flight, connection.receive_maximum, connection.waiting)],
          ...(connection.slow ? [[texts.reading, <Badge tone="warning">{texts.slow}</Badge>] as [string, JSX.Element]] : [])
        ]} />
      )}
    </Card>
  )
}

function SessionCard({ session }: { session: Session | null | undefined }): JSX.Element {
  const texts = t.client.session
  return (
    <Card title={texts.title}>
      {!session ? <p class="quiet-text">{texts.none}</p> : (
        <Facts items={[
          [texts.expiry, session.expiry_s === FOREVER ? texts.never : duration(session.expiry_s)],
          [texts.ends, session.ends_at ? <Age at={session.ends_at} /> : texts.whileConnected],
          [texts.owner, session.user || t.clients.anonymous],
          [texts.subscriptions, count(session.subscription_count)],
          [texts.queue, <>{plural(session.queue.length, 'message')}, {bytes(session.queue.size_bytes)}{session.queue.oldest_at != null &&
            <>{texts.oldest}<Age at={session.queue.oldest_at} /></>}</>],
          [texts.awaiting, count(session.awaiting_pubcomp)],
          [texts.epoch, count(session.epoch)]
        ]} />
      )}
    </Card>
  )
}

const SUBSCRIPTION_COLUMNS: Column<Subscription>[] = [
  { head: t.client.subscriptions.filter, cell: one => <a href={href(['topics'], { tab: 'sample', filter: one.filter })}><code>{one.filter}</code></a> },
  { head: 'QoS', right: true, cell: one => one.qos },
  { head: t.client.subscriptions.options, cell: one => options(one) || '–' },
  { head: t.client.subscriptions.identifier, right: true, minor: true, cell: one => one.subscription_id ?? '–' }
]

function options(one: Subscription): string {
  const texts = t.client.subscriptions
  return [one.durable ? texts.durable : '', one.no_local ? texts.noLocal : '', one.retain_as_published ? texts.asPublished : '',
    texts.handling[one.retain_handling] ?? ''].filter(Boolean).join(', ')
}

const QUEUE_COLUMNS: Column<QueueEntry>[] = [
  { head: t.client.queue.topic, cell: one => <code>{one.topic}</code> },
  { head: t.client.queue.payload, cell: one => <code>{preview(fromBase64(one.payload_base64))}</code> },
  { head: t.client.queue.size, right: true, cell: one => bytes(one.payload_size_bytes) },
  { head: 'QoS', right: true, cell: one => one.qos },
  { head: t.client.queue.queued, right: true, cell: one => <Age at={one.queued_at} /> },
  { head: t.client.queue.expires, right: true, minor: true, cell: one => <Age at={one.expires_at} /> },
  { head: t.client.queue.sent, cell: one => one.is_sent ? <Badge tone="info">{t.client.queue.wasSent}</Badge> : <Badge>{t.client.queue.waits}</Badge> }
]

function QueueCard({ path, query }: { path: string, query: Record<string, string> }): JSX.Element {
  const list = useList<QueueEntry>(`${path}/queue`, query)
  return (
    <Card title={t.client.queue.title} flush>
      {list.data ? <Table name={t.client.queue.title} columns={QUEUE_COLUMNS} items={list.data.items} id={one => String(one.seq)}
        empty={<Empty title={t.client.queue.none} />} /> : !list.error && <Loading />}
      <More more={list.more} busy={list.busy} shown={list.data?.items.length ?? 0} />
    </Card>
  )
}

const FLIGHT_COLUMNS: Column<InFlight>[] = [
  { head: t.client.flight.topic, cell: one => one.topic ? <code>{one.topic}</code> : '–' },
  { head: t.client.flight.packet, right: true, cell: one => one.packet_id },
  { head: 'QoS', right: true, cell: one => one.qos },
  { head: t.client.flight.awaits, cell: one => <Badge tone="info">{one.awaits.toUpperCase()}</Badge> }
]

function WillCard({ will }: { will: Will }): JSX.Element {
  const texts = t.client.will
  return (
    <Card title={texts.title}>
      <Facts items={[
        [texts.topic, <code>{will.topic}</code>],
        [texts.payload, <code>{preview(fromBase64(will.payload_base64)) || texts.empty}</code>],
        ['QoS', `${will.qos}${will.retain ? `, ${t.retain}` : ''}`],
        [texts.delay, duration(will.delay_s)],
        [texts.due, will.is_pending ? texts.pending : will.due_at ? <Age at={will.due_at} /> : texts.whenLost]
      ]} />
    </Card>
  )
}

interface Why { sentences: Told[], missing: string[] }

/** As the record says it: `advice` is what to do. */
type Told = Finding & { advice?: string }

function WhyCard({ path, query }: { path: string, query: Record<string, string> }): JSX.Element | null {
  const [topic, setTopic] = useState('')
  const asked = useSettled(topic && !topicProblem(topic) ? topic : '')
  const { data, error } = useApi<Why>(`${path}/why`, { ...query, topic: asked }, 3000)
  if (error?.status === 404 || (!data && !error)) return null
  const findings = (data?.sentences ?? [])
    .map((one): Finding => ({ ...one, todo: one.advice ?? null }))
    // What has merely happened is in the timeline.
    .filter(one => one.at == null || one.severity !== 'info')
  return (
    <Card title={t.client.why.title} extra={(
      <input class="mono why-topic" aria-label={t.client.why.topic} placeholder={t.client.why.topic} value={topic}
        spellcheck={false} autocomplete="off" onInput={event => { setTopic(event.currentTarget.value) }} />
    )}>
      {error && !data ? <p class="quiet-text">{error.message}</p>
        : findings.length ? <Findings items={findings} /> : <p class="quiet-text">{t.client.why.none}</p>}
    </Card>
  )
}

function EventsCard({ path, query }: { path: string, query: Record<string, string> }): JSX.Element {
  const list = useList<BrokerEvent>(`${path}/events`, query, 3000)
  return (
    <Card title={t.client.events.title} flush>
      {list.data ? <Timeline events={list.data.items} /> : !list.error ? <Loading /> : <Empty title={list.error.message} />}
      <More more={list.more} busy={list.busy} shown={list.data?.items.length ?? 0} />
    </Card>
  )
}

function Actions({ client, path, query, refresh }: {
  client: ClientDetail, path: string, query: Record<string, string>, refresh: () => void
}): JSX.Element {
  const [banning, setBanning] = useState(false)
  const texts = t.client.actions
  const name = client.client_id
  const after = (done: boolean): void => { if (done) refresh() }
  const disconnect = (): void => {
    void confirmed({ title: texts.disconnectTitle(name), effects: texts.disconnectEffects(Boolean(client.session), client.wills.length > 0), action: texts.disconnect },
      async () => await post(`${path}/disconnect`, {}, query), texts.disconnected(name)).then(after)
  }
  const clear = (): void => {
    void confirmed({ title: texts.clearTitle(name), effects: texts.clearEffects(client.session?.queue.length ?? 0), action: texts.clear },
      async () => await remove(`${path}/queue`, query), texts.cleared(name)).then(after)
  }
  const end = (): void => {
    void confirmed({
      title: texts.endTitle(name), action: texts.end,
      effects: texts.endEffects(client.session?.subscription_count ?? 0, client.session?.queue.length ?? 0, client.state === 'connected')
    }, async () => await remove(`${path}/session`, query), texts.ended(name)).then(done => {
      if (done) go(['clients'])
    })
  }
  return (
    <>
      {client.state === 'connected' && may('operator') && <Button onClick={disconnect}>{texts.disconnect}</Button>}
      {client.session && client.session.queue.length > 0 && may('admin') && <Button onClick={clear}>{texts.clear}</Button>}
      {client.session && may('admin') && <Button kind="danger" onClick={end}>{texts.end}</Button>}
      {may('admin') && <Button kind="danger" icon="bans" onClick={() => { setBanning(true) }}>{texts.ban}</Button>}
      {banning && <BanDialog start={{ client: name }} mountPoint={client.mount_point} onClose={() => { setBanning(false); refresh() }} />}
    </>
  )
}

export function Client({ id }: { id: string }): JSX.Element {
  const mountPoint = route.value.query.get('mount_point') ?? ''
  const query: Record<string, string> = mountPoint ? { mount_point: mountPoint } : {}
  const path = `clients/${encodeURIComponent(id)}`
  const { data, error, refresh } = useApi<ClientDetail>(path, query, 3000)
  const subscriptions = useList<Subscription>(`${path}/subscriptions`, query)
  const gone = error?.status === 404
  return (
    <>
      <Heading back={{ href: href(['clients']), text: t.nav.clients }}
        title={<><Code copy>{id}</Code>{data && !gone && <StateBadge state={data.state} />}</>}
        lead={data && !gone ? t.client.lead(data.user || t.clients.anonymous, mountPoint) : undefined}>
        {data && !gone && <Actions client={data} path={path} query={query} refresh={refresh} />}
      </Heading>
      <Gaps missing={data?.missing} error={gone ? undefined : error} stale={Boolean(data)} />
      {gone && <Card><Empty title={t.client.gone}>{t.client.goneHint}</Empty></Card>}
      {!data && !error && <Loading />}
      <WhyCard path={path} query={query} />
      <div class="columns">
        <div class="stack">
          {data && !gone && <ConnectionCard connection={data.connection} />}
          {data && !gone && <SessionCard session={data.session} />}
          {!gone && subscriptions.data && (
            <Card title={t.client.subscriptions.title} flush>
              <Table name={t.client.subscriptions.title} columns={SUBSCRIPTION_COLUMNS} items={subscriptions.data.items} id={one => one.filter}
                empty={<Empty title={t.client.subscriptions.none}>{t.client.subscriptions.noneHint}</Empty>} />
              <More more={subscriptions.more} busy={subscriptions.busy} shown={subscriptions.data.items.length} />
            </Card>
          )}
          {!gone && data?.wills.map(will => <WillCard key={`${will.topic} ${moment(will.due_at)}`} will={will} />)}
        </div>
        <EventsCard path={path} query={query} />
        {!gone && data && data.in_flight.length > 0 && (
          <div class="wide"><Card title={t.client.flight.title} flush>
            <Table name={t.client.flight.title} columns={FLIGHT_COLUMNS} items={data.in_flight} id={one => String(one.packet_id)} />
          </Card></div>
        )}
        {!gone && data?.session && <div class="wide"><QueueCard path={path} query={query} /></div>}
      </div>
    </>
  )
}
