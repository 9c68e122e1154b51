// Who gets a message on a topic, and who would, if the ACL let them.
import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import type { Receiver, ReceiverGroup, Receivers as Answer } from '../api/types'
import { useApi } from '../api/use'
import { count, plural } from '../format'
import { topicProblem } from '../mqtt/topics'
import { href, replaceQuery, route } from '../route'
import { t } from '../texts'
import { Badge, Button, Card, Empty, Gaps, Loading, Table, Text, type Column } from '../ui/kit'
import { ClientLink, StateBadge } from './clients'

const TONES = { allowed: 'ok', denied: 'error', unknown: 'warning' } as const

const COLUMNS: Column<Receiver>[] = [
  { head: t.clients.client, cell: one => <ClientLink id={one.client_id} mountPoint={one.mount_point} /> },
  { head: t.clients.state, cell: one => <StateBadge state={one.state} /> },
  { head: t.receivers.through, cell: one => one.filters.map(filter => <div key={filter}><code>{filter}</code></div>) },
  { head: 'QoS', right: true, cell: one => one.qos },
  { head: t.receivers.gets, cell: one => <Badge tone={TONES[one.acl]}>{t.receivers.verdicts[one.acl]}</Badge> },
  { head: t.receivers.how, minor: true, cell: one => how(one) }
]

function how(one: Receiver): string {
  if (one.acl === 'denied') return t.receivers.denied
  if (one.state === 'connected') return one.edge ? t.receivers.now(one.edge) : t.receivers.atOnce
  return one.durable ? t.receivers.later : t.receivers.never
}

const GROUP_COLUMNS: Column<ReceiverGroup>[] = [
  { head: t.groups.group, cell: one => <a class="strong" href={href(['groups', `${one.share_name}/${one.filter}`])}>{one.share_name}</a> },
  { head: t.groups.filter, cell: one => <code>{one.filter}</code> },
  { head: t.groups.members, right: true, cell: one => count(one.members) },
  { head: t.groups.connected, right: true, cell: one => count(one.connected) }
]

function Found({ topic }: { topic: string }): JSX.Element {
  const { data, error } = useApi<Answer>(`topics/${encodeURIComponent(topic)}/receivers`, {}, 5000)
  if (!data) return error ? <Gaps error={error} /> : <Loading />
  const gets = data.receivers.filter(one => one.acl !== 'denied').length
  return (
    <>
      <Gaps missing={data.missing} error={error} stale />
      <Card title={t.receivers.title(plural(gets, 'client'))} flush>
        <Table name={t.topics.receivers} columns={COLUMNS} items={data.receivers} id={one => `${one.mount_point}\n${one.client_id}`}
          empty={<Empty title={t.receivers.none}>{t.receivers.noneHint}</Empty>} />
        {data.more && <p class="more quiet-text">{t.receivers.more}</p>}
      </Card>
      {data.groups.length > 0 && (
        <Card title={t.receivers.groups} flush>
          <Table name={t.receivers.groups} columns={GROUP_COLUMNS} items={data.groups} id={one => `${one.share_name}/${one.filter}`} />
        </Card>
      )}
    </>
  )
}

export function Receivers(): JSX.Element {
  const asked = route.value.query.get('topic') ?? ''
  const [topic, setTopic] = useState(asked)
  const problem = topic ? topicProblem(topic) : null
  return (
    <div class="stack">
      <Card>
        <form class="publish-row" onSubmit={event => {
          event.preventDefault()
          if (!problem) replaceQuery({ tab: 'receivers', topic })
        }}>
          <Text label={t.receivers.topic} mono value={topic} onInput={setTopic} placeholder="plant/line-1/temperature" problem={problem} required />
          <Button kind="primary" type="submit" disabled={!topic || Boolean(problem)}>{t.receivers.ask}</Button>
        </form>
      </Card>
      {asked && <Found key={asked} topic={asked} />}
    </div>
  )
}
