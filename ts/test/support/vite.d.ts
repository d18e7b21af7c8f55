declare module '*?worker&url' {
  /** The script of a Worker, served as a module. */
  const url: string
  export default url
}
