-- What became of requests of one key. Each is settled once, however often that is said: the one who takes its name
-- from those that run is the first to say so.

local GONE = 'gone'

local function settle(key, name, ending, slot, tokens, used)
  local is_first = call('ZREM', key.running, name) == 1
  if slot == '0' then
    -- The gateway did not hear what became of it: only the server knows.
    local known = field(key, name)
    if ending == 'cancel' and (known == GONE or not is_first) then
      -- It may still be on its way, over a connection that broke: then it comes too late.
      put_running(key, {name}, true, true)
      set(key, name, GONE)
      return
    end
    if known then
      slot, tokens = string.match(known, '^(%d+) (%d+)$')
    end
  end
  if not is_first then
    return
  end
  set(key, name, false)
  tokens, used = tonumber(tokens) or 0, tonumber(used) or 0
  if ending == 'cancel' and slot ~= '0' then
    give_back(key, slot, 1, tokens)
  elseif ending == 'settle' and used < tokens then
    give_back(key, slot, 0, tokens - used)
  elseif ending == 'settle' and used > tokens then
    add(key, 'c', key.now, 0, used - tokens)
  end
end

-- Gives back what a gateway took in advance and did not use: requests, tokens and places.
local function settle_stock(key, name, slot, requests, tokens, places)
  if call('ZREM', key.running, name) == 0 then
    return
  end
  if slot == '0' then
    slot, requests, tokens = string.match(field(key, name) or '0 0 0', '^(%d+) (%d+) (%d+)$')
  end
  set(key, name, false)
  give_back(key, slot, tonumber(requests), tonumber(tokens))
  for place in string.gmatch(places, '%S+') do
    call('ZREM', key.running, place)
  end
end

-- Reads as many settlements as the argument at `from` says, and returns where the next argument stands.
local function settle_all(key, from)
  local count = tonumber(ARGV[from])
  for number = 0, count - 1 do
    local at = from + 1 + number * 6
    local name, ending = ARGV[at], ARGV[at + 1]
    if ending == 'stock' then
      settle_stock(key, name, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5])
    else
      settle(key, name, ending, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
    end
  end
  return from + 1 + count * 6
end
