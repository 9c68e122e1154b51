-- The history of a store: a hash in each partition, and one for what belongs to no partition.
--
--   e the first number of this history: epochs (leases in tg:{g}:) up to it were given out before
--   r 1 when a router has begun it, in place of one that had gone back
--   and of each reader (a router): what it has last written, and when, in seconds

local READER_S = 86400
local PRUNE_EVERY = 3600

local function prune_readers(key, now)
  local fields = call('HGETALL', key)
  for n = 1, #fields, 2 do
    local at = string.match(fields[n + 1], '^%d+ (%d+)$')
    if at and tonumber(at) < now - READER_S then call('HDEL', key, fields[n]) end
  end
end

-- Reads histories, and writes into each a number that a history which is older does not have. A
-- partition without one begins one; that of an older version of Tidegate has numbers already, and
-- goes on with them.
--
-- arguments: reader, number, P…; result: the time in ms; then for each the first number, 1 = a router
--   has begun it, and what this reader had written before, '' = nothing
local function read_history(i, last)
  local reader, number = ARGV[i], ARGV[i + 1]
  local now = call('TIME')
  local results = {now[1] * 1000 + math.floor(now[2] / 1000)}
  now = now[1]
  for at = i + 2, last do
    local P = ARGV[at]
    local key = P .. 'history'
    local v = call('HMGET', key, 'e', reader, 'r')
    local first = v[1]
    if not first and call('EXISTS', counter_of(P)) == 0 then
      first = begin_history(P, 0)
    elseif not first then
      first = 0
      call('HSET', key, 'e', 0)
    end
    call('HSET', key, reader, number .. ' ' .. now)
    if number % PRUNE_EVERY == 0 then prune_readers(key, tonumber(now)) end
    results[#results + 1] = tonumber(first)
    results[#results + 1] = v[3] and 1 or 0
    results[#results + 1] = v[2] and tonumber(string.match(v[2], '^%d+')) or ''
  end
  return results
end

-- arguments: numbers must be higher than this, (P, first number of the history that has gone back)…
-- result: for each the first number of its history now; one that has another first number stays
local function replace_history(i, last)
  local results = {}
  for at = i + 1, last, 2 do
    local P = ARGV[at]
    local first = call('HGET', P .. 'history', 'e')
    if not first or first == ARGV[at + 1] then
      first = begin_history(P, tonumber(ARGV[i]))
      call('HSET', P .. 'history', 'r', 1)
    end
    results[#results + 1] = tonumber(first)
  end
  return results
end

-- Sets sessions offline that are connected by an earlier history: their edges have ended all such
-- connections by now, and published the wills, so these had ended before the store went back. A
-- sweep of edges without a lease comes first.
--
-- arguments: now, the edge that publishes wills, limit, P…; result: as of sweep_edges
local function sweep_history(i, last)
  local now, publisher, limit = tonumber(ARGV[i]), ARGV[i + 1], tonumber(ARGV[i + 2])
  local ended, wills = {}, {}
  for at = i + 3, last do
    local P = ARGV[at]
    local first = tonumber(call('HGET', P .. 'history', 'e') or 0)
    local edges = call('HGETALL', P .. 'edges')
    for n = 1, #edges, 2 do
      local edge = edges[n]
      for _, C in ipairs(call('SMEMBERS', P .. 'g:' .. edge)) do
        local f = limit > 0 and session(P, C)
        if f and f.g == edge and tonumber(f.e) <= first then
          limit = limit - 1
          local incarnation, id, record = disconnect(P, C, f, now, false, false, 0, publisher)
          if incarnation > 0 then
            ended[#ended + 1] = C
            ended[#ended + 1] = incarnation
          end
          if id ~= '' then
            wills[#wills + 1] = id
            wills[#wills + 1] = record
          end
        end
      end
    end
  end
  return {ended, wills}
end
