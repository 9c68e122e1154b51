-- Expired entries of queues are deleted by time, too, whether or not anything more is queued.

-- A queue is visited no more often than this; less often while its expired entries may be in flight.
local VISIT_MS = 2000
local BEGUN_VISIT_MS = 30000
local NO_VISIT = 9007199254740991

-- A session with entries that may expire is connected: it keeps its next visit, or gets one.
local function keep_visit(P, C, f, now)
  local at = tonumber(f.v)
  if at == NO_VISIT then
    at = now + BEGUN_VISIT_MS
    call('ZADD', P .. 'queued-due', at, C .. ':' .. f.i)
  end
  call('HSET', P .. 's:' .. C, 'v', at)
end

-- Visits the queue of an incarnation, and sets when to visit it again; returns how many entries were
-- deleted, and whether there may be more. It deletes first: queues must drain when memory is full.
local function visit_queue(P, name, now, most)
  local C, I = string.match(name, '^(.*):(%d+)$')
  local s, v = P .. 's:' .. C, P .. 'v:' .. name
  local f = call('HMGET', s, 'i', 'g')
  if f[1] ~= I then
    call('ZREM', P .. 'queued-due', name)
    call('UNLINK', v)
    return 0, false
  end
  local deleted, kept, more = (expiry or make_expiry()).delete_expired(P, C, I, now, most)
  if more then return deleted, true end
  call('ZREM', P .. 'queued-due', name)
  local later = call('ZRANGEBYSCORE', v, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  local at = later and math.max(tonumber(later), now + VISIT_MS)
  if kept > 0 and f[2] ~= '' then at = math.min(at or NO_VISIT, now + BEGUN_VISIT_MS) end
  if at then
    call('ZADD', P .. 'queued-due', at, name)
    call('HSET', s, 'v', at)
  elseif kept > 0 then
    call('HSET', s, 'v', NO_VISIT)
  else
    call('HDEL', s, 'v')
  end
  return deleted, false
end

-- arguments: now, how many entries to delete at most (about), P…
-- result: 1 = there may be more, else 0
local function expire_queued(i, last)
  local now, left = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  for at = i + 2, last do
    local P = ARGV[at]
    while true do
      local names = call('ZRANGEBYSCORE', P .. 'queued-due', '-inf', now, 'LIMIT', 0, 100)
      for _, name in ipairs(names) do
        if left <= 0 then return 1 end
        local deleted, more = visit_queue(P, name, now, left)
        left = left - 1 - deleted
        if more then return 1 end
      end
      if #names < 100 then break end
    end
  end
  return 0
end
