// What is being published now, for a filter: bounded by the console in rate and bytes.
import type { JSX } from 'preact'
import { useEffect, useMemo, useState } from 'preact/hooks'
import { address } from '../api/client'
import type { SampleMessage, SampleStatus } from '../api/types'
import { count } from '../format'
import { Messages, type Message } from '../mqtt/messages'
import { fromBase64 } from '../mqtt/payload'
import { filterProblem } from '../mqtt/topics'
import { replaceQuery, route } from '../route'
import { t } from '../texts'
import { Button, Card, Notice, Text } from '../ui/kit'
import { MessageDialog } from '../ui/message'
import { MessageList } from '../ui/messages'

interface Live { messages: Messages, status: SampleStatus | undefined, state: 'opening' | 'open' | 'lost' }

const AGAIN_MS = 3000

function useSample(filter: string): Live {
  const messages = useMemo(() => new Messages(2000), [filter])
  const [status, setStatus] = useState<SampleStatus | undefined>()
  const [state, setState] = useState<Live['state']>('opening')
  const [attempt, setAttempt] = useState(0)
  useEffect(() => {
    setStatus(undefined)
    setState('opening')
    let timer: ReturnType<typeof setTimeout> | undefined
    const source = new EventSource(address('sample', { filter, rate: 50 }))
    source.onopen = () => { setState('open') }
    source.onerror = () => {
      setState('lost')
      // The browser opens a lost stream again by itself, but not one that was refused.
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(() => { setAttempt(attempt + 1) }, AGAIN_MS)
    }
    const onMessage = (event: MessageEvent<string>): void => {
      const one = JSON.parse(event.data) as SampleMessage
      messages.add({
        at: one.at, topic: one.topic, payload: fromBase64(one.payload_base64), size: one.payload_size_bytes,
        qos: one.qos, retain: one.retain, colour: 1
      })
    }
    source.addEventListener('message', onMessage)
    source.addEventListener('status', event => { setStatus(JSON.parse((event as MessageEvent<string>).data) as SampleStatus) })
    return () => {
      clearTimeout(timer)
      source.close()
    }
  }, [filter, messages, attempt])
  return { messages, status, state }
}

function Stream({ filter }: { filter: string }): JSX.Element {
  const { messages, status, state } = useSample(filter)
  const [paused, setPaused] = useState(false)
  const [open, setOpen] = useState<Message | undefined>()
  return (
    <Card flush title={<code>{filter}</code>} extra={(
      <>
        {status && status.seen > 0 && <span>{t.sample.seen(count(status.seen), status.skipped ? count(status.skipped) : '')}</span>}
        <Button small icon={paused ? 'play' : 'pause'} pressed={paused} onClick={() => {
          messages.setPaused(!paused)
          setPaused(!paused)
        }}>{paused ? t.messages.resume : t.messages.pause}</Button>
      </>
    )}>
      {state === 'lost' && <Notice tone="warning">{t.sample.lost}</Notice>}
      <MessageList messages={messages} onOpen={setOpen}
        empty={state === 'opening' ? { title: t.loading, text: '' } : { title: t.sample.none, text: t.sample.noneHint }} />
      {open && <MessageDialog message={open} onClose={() => { setOpen(undefined) }} />}
    </Card>
  )
}

export function Sample(): JSX.Element {
  const asked = route.value.query.get('filter') ?? ''
  const [filter, setFilter] = useState(asked)
  const problem = filter ? filterProblem(filter) : null
  return (
    <div class="stack">
      <Card>
        <form class="publish-row" onSubmit={event => {
          event.preventDefault()
          if (!problem) replaceQuery({ tab: 'sample', filter })
        }}>
          <Text label={t.sample.filter} mono value={filter} onInput={setFilter} placeholder="plant/+/temperature" problem={problem} required />
          <Button kind="primary" type="submit" disabled={!filter || Boolean(problem)}>{t.sample.start}</Button>
          {asked && <Button onClick={() => { replaceQuery({ tab: 'sample' }) }}>{t.sample.stop}</Button>}
        </form>
      </Card>
      {asked && <Stream key={asked} filter={asked} />}
    </div>
  )
}
