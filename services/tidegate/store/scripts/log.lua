-- The change logs: how routers learn of each other's changes.

local LOG_AGE_MS = 600000

-- The id of the newest entry of the change log, nil when there has never been one.
local function log_end(P)
  local newest = call('XREVRANGE', P .. 'log', '+', '-', 'COUNT', 1)
  return newest[1] and newest[1][1]
end

-- arguments: P…; result: for each the id of its newest entry, '' when there has never been one
local function log_ends(i, last)
  local ids = {}
  for at = i, last do ids[#ids + 1] = log_end(ARGV[at]) or '' end
  return ids
end

-- True unless the log holds every entry after this one. The entry itself must still be there: that
-- is certain for a reader that keeps up (see trim_log), and fails when the server has lost or
-- replaced the history that the reader knew (a failover, a restored backup).
local function has_gap(log, after)
  if after ~= '0-0' then return #call('XRANGE', log, after, after) == 0 end
  local stream, added, length = call('XINFO', 'STREAM', log), 0, 0
  for n = 1, #stream, 2 do
    if stream[n] == 'entries-added' then added = stream[n + 1] end
    if stream[n] == 'length' then length = stream[n + 1] end
  end
  return added > length
end

-- Reads entries after one, by count and by bytes; result: the entries, and whether it stopped early.
local function read_log(log, after, count, bytes)
  local found, step = {}, 16
  while true do
    local entries = call('XRANGE', log, '(' .. after, '+', 'COUNT', math.min(step, count - #found))
    for _, entry in ipairs(entries) do
      found[#found + 1] = entry
      for _, word in ipairs(entry[2]) do bytes = bytes - #word end
    end
    if #found == count or bytes <= 0 then return found, true, bytes end
    if #entries < step then return found, false, bytes end
    after = entries[step][1]
    step = 256
  end
end

-- arguments: how many entries, how many bytes, key of each log…, id of the last entry known of each
--   ('0-0' = none)…
-- result: {number of the log, 1 = entries are missing before these, 1 = there may be more, {id,
--   {field, value, …}}…} of each that has something new
local function changes(i, last)
  local count, bytes = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local results = {}
  local news = call('XREAD', 'COUNT', 1, 'STREAMS', unpack(ARGV, i + 2, last))
  if not news then return results end
  local logs, numbers = (last - i - 1) / 2, {}
  for n = 1, logs do numbers[ARGV[i + 1 + n]] = n end
  for _, new in ipairs(news) do
    local log, found, more = new[1], {}, true
    local after = ARGV[i + 1 + logs + numbers[log]]
    if count > 0 and bytes > 0 then
      found, more, bytes = read_log(log, after, count, bytes)
      count = count - #found
    end
    local gap = #found > 0 and has_gap(log, after)
    results[#results + 1] = {numbers[log], gap and 1 or 0, more and 1 or 0, found}
  end
  return results
end

-- Deletes old entries, by the server's clock as their ids are. One that may be a reader's position
-- stays until its successor is old, too.
local function trim_log(P)
  local oldest = call('TIME')[1] * 1000 - LOG_AGE_MS
  local old = call('XREVRANGE', P .. 'log', oldest, '-', 'COUNT', 1)
  if old[1] then call('XTRIM', P .. 'log', 'MINID', '~', old[1][1], 'LIMIT', 0) end
end
