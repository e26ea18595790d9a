import { ApiError } from '../lib/errors.ts'

/** Which methods each address has, for the answer to a request that no route takes: 405 with Allow, or 404. */
export function createMethodTable() {
  const routes = new Map<string, Set<string>>()

  return {
    add(url: string, method: string): void {
      routes.set(url, (routes.get(url) ?? new Set()).add(method))
    },
    missing(url: string, method: string): ApiError {
      const path = url.split('?', 1)[0]!.split('/')
      const methods = [...routes].flatMap(([pattern, methods]) =>
        matches(pattern.split('/'), path) ? [...methods] : [],
      )
      if (methods.length === 0) {
        return new ApiError('not_found', `There is no ${method} at this address; /openapi.json lists what there is.`)
      }
      const allow = [...new Set(methods)].sort().join(', ')
      return new ApiError('method_not_allowed', `${method} is not possible here; use ${allow}.`, { headers: { allow } })
    },
  }
}

function matches(pattern: string[], path: string[]): boolean {
  return pattern.length === path.length && pattern.every((part, i) => part === path[i] || (part[0] === ':' && path[i]))
}
